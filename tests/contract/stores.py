"""The table of stores that the contract is held against, and what starts what they need."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from loquent.stores import Keeper, connect
from postgres_server import PostgresServer

ROOT = Path(__file__).parents[2]
MINISTACK = ROOT / ".venv-ministack" / "bin" / "ministack"


@dataclass(frozen=True)
class Backend:
    """A row: how a URL for an empty store of its own is come by, and what it can do beside the contract."""

    name: str
    url: Callable[[pytest.FixtureRequest, Path], str]
    keeps: bool = True  # what was written is there again after another open


class Place:
    """An empty store that can be opened more than once."""

    def __init__(self, backend: Backend, url: str, data_dir: Path) -> None:
        self.backend, self.url, self.data_dir = backend, url, data_dir

    async def open(self) -> Keeper:
        store = connect(self.url, data_dir=self.data_dir)
        await store.upgrade()
        await store.open()
        return store


@contextmanager
def started_emulator(folder: Path) -> Iterator[str]:
    """DynamoDB's stand-in on a free port; its address."""
    if not MINISTACK.exists():
        pytest.fail(
            f"{MINISTACK} is not there: `make .venv-ministack/.ready` (or `make test`) installs the DynamoDB emulator"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "WARNING",
    }
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen([str(MINISTACK)], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(process, port, folder / "ministack.log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"the emulator did not start: {log.read_text(errors='replace')[-2000:]}")


def _emulated(request: pytest.FixtureRequest, folder: Path) -> str:
    address = request.getfixturevalue("emulator")
    return f"dynamodb://{address}/loquent-{uuid.uuid4().hex}?region=eu-central-1"


def _served(request: pytest.FixtureRequest, folder: Path) -> str:
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


BACKENDS = (
    Backend("memory", lambda request, folder: "memory:", keeps=False),
    Backend("sqlite", lambda request, folder: f"sqlite:///{folder}/loquent.db"),
    Backend("postgresql", _served),
    Backend("dynamodb", _emulated),
)
