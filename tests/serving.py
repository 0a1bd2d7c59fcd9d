"""A real server for a test: a process of its own, on a free port, ended when the test is over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from built import ROWS
from daemon import free_port
from forking import SOURCE, begun

START_SECONDS = STOP_SECONDS = 30


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def metric(self, name: str) -> float:
        """The sum of a metric's samples, as /metrics has them now."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as page:  # noqa: S310  (our own server)
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@contextmanager
def served(folder: Path, *, anew: bool = False, **environ: str) -> Iterator[Served]:
    """A server on echo and extractive models, its data in the folder; it must end cleanly when it is told to.

    ``anew``: see ``begun``.
    """
    with _running(folder, "serve", "LOQUENT_PORT", environ, anew=anew) as server:
        yield server


@contextmanager
def worker_of(folder: Path, **environ: str) -> Iterator[Served]:
    """A worker on the same data, at whose address it tells monitors of itself."""
    with _running(folder, "worker", "LOQUENT_WORKER_PORT", environ) as worker:
        yield worker


@contextmanager
def _running(
    folder: Path, command: str, port_name: str, environ: Mapping[str, str], *, anew: bool = False
) -> Iterator[Served]:
    rows = folder / "models.toml"
    if not rows.exists():
        rows.write_text(ROWS)
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOQUENT_", "OPENAI_"))}
    ours = {
        "PYTHONPATH": str(SOURCE),
        "LOQUENT_DATA_DIR": str(folder / "data"),
        "LOQUENT_MODELS": str(rows),
        port_name: str(port),
        "LOQUENT_LOG_FORMAT": "json",
        "LOQUENT_LIMIT_GENERATIONS": "1000000/minute",
        "LOQUENT_FREE_SPACE": "1MB",  # of it a quarter is a file: not one of 16 MB for each test
        "LOQUENT_LIMIT_SUMMARIES": "1000000/minute",
        "LOQUENT_LIMIT_LOGINS": "1000000/minute",
    }
    log = folder / f"{command}.log"
    process = begun("loquent", command, folder=folder, environ={**kept, **ours, **environ}, log=log, anew=anew)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, log)
        yield Served(url, process, log)
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_SECONDS)
        assert code == 0, f"it ended with {code}:\n{_end_of(log)}"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(f"it ended with {process.returncode} before it answered:\n{_end_of(log)}")
        try:
            urllib.request.urlopen(f"{url}/api/v1/health/live", timeout=2).close()  # noqa: S310  (our own server)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.02)
    raise AssertionError(f"it does not answer:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3_000:]
