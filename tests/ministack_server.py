"""A stand-in for DynamoDB and SQS for tests: ministack, from its own environment, on a free port of loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon import Daemon, free_port, says

MINISTACK = Path(__file__).parents[1] / ".venv-ministack" / "bin" / "ministack"


class MinistackServer(Daemon):
    """Keeps nothing on disk: what is started anew knows no table and no queue."""

    def __init__(self, folder: Path) -> None:
        if not MINISTACK.exists():
            raise RuntimeError(f"{MINISTACK} is not there: `make .venv-ministack/.ready` (or `make test`) installs it")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        own = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(self.port), "LOG_LEVEL": "WARNING"}
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **own}
        super().__init__("ministack", [str(MINISTACK)], folder, answers=self._answers, environment=environment)

    def _answers(self) -> bool:
        return says(self.port, b"GET /_ministack/health HTTP/1.0\r\n\r\n", b"HTTP/1")


@contextmanager
def ministack_server(folder: Path) -> Iterator[str]:
    """One that runs; its address."""
    server = MinistackServer(folder)
    server.start()
    try:
        yield server.address
    finally:
        server.kill()
