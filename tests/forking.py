"""Commands of ours as processes that begin behind their imports: forked from one that has done them, once.

Each is a real process, with a pid, an environment, a folder and a log of its own, and ends, is killed and frozen like
any other; only the second of work is spared that imports take, and tests start hundreds. What is claimed of the start
itself (the command line, the children of a server, another version) starts from nothing.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

SOURCE = Path(__file__).resolve().parents[1] / "src"
IMPORTED = (
    *("web.app", "worker", "probe", "engines.echo", "engines.extractive", "engines.openai", "tracers.otel"),
    *("stores.sqlite", "stores.postgres", "stores.migrations", "blobs.file", "queues.local", "queues.celery"),
    *("queues.celery_consumer", "limiters.memory", "limiters.redis", "caches.redis", "readers.files"),
)
LIBRARIES = ("uvloop", "granian.server.embed", "uvicorn", "uvicorn.loops.auto", "alembic.command", "celery.bin.celery")
WORD = 8  # bytes of a number that is told


class Forked(subprocess.Popen[bytes]):
    """A process that another one has forked for us, which tells how it ended."""

    def __init__(self, args: Sequence[str], told: socket.socket) -> None:
        self.args, self.returncode = args, None
        self.stdin = self.stdout = self.stderr = None
        self._told = told
        self.pid = self._next()

    def poll(self) -> int | None:
        """See Popen."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = self._next()
            self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See Popen."""
        if self.poll() is None and not select.select([self._told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def _next(self) -> int:
        return int.from_bytes(_received(self._told, WORD), "big", signed=True)


def begun(
    module: str, *arguments: str, folder: Path, environ: Mapping[str, str], log: Path, anew: bool = False
) -> subprocess.Popen[bytes]:
    """``python -m MODULE …`` in that folder, with nothing else in its environment; its log goes on.

    ``anew``: from nothing, where another version is to start, or a single one.
    """
    with log.open("ab") as out:
        if anew:
            command = [sys.executable, "-m", module, *arguments]
            return subprocess.Popen(command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        return _forked([module, *arguments], folder, environ, out, out)


def ran(
    module: str, *arguments: str, folder: Path, environ: Mapping[str, str], seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """``python -m MODULE …`` in that folder to its end: how it ended, and what it wrote."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
        with _forked([module, *arguments], folder, environ, out, told) as process:
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        written = [os.pread(each.fileno(), os.fstat(each.fileno()).st_size, 0).decode() for each in (out, told)]
    return subprocess.CompletedProcess(process.args, code, *written)


def _forked(command: list[str], folder: Path, environ: Mapping[str, str], out: IO[bytes], told: IO[bytes]) -> Forked:
    """That command, writing there."""
    ours, theirs = socket.socketpair()
    order = json.dumps([*command[:1], command[1:], str(folder), dict(environ)]).encode()
    with theirs:
        given = [out.fileno(), told.fileno(), theirs.fileno()]
        socket.send_fds(_forking(), [len(order).to_bytes(WORD, "big")], given)
        _forking().sendall(order)
    return Forked(command, ours)


def _received(told: socket.socket, count: int) -> bytes:
    """So many bytes."""
    said = b""
    while len(said) < count:
        piece = told.recv(count - len(said))
        assert piece, "the other one is gone"
        said += piece
    return said


@cache
def _forking() -> socket.socket:
    """Where orders go; the process behind it ends with this one, and ends all that are left then."""
    ours, theirs = socket.socketpair()
    with theirs:
        path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# What follows runs in the process that forks


def main() -> None:
    """Fork as ordered; in a forked one, return when its command is over."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    for name in (*(f"loquent.{name}" for name in ("cli", *IMPORTED)), *LIBRARIES):
        importlib.import_module(name)
    assert threading.active_count() == 1, "what has threads cannot be forked"
    gc.collect()
    gc.freeze()
    ended, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([orders, ended], [], [])
        if ended in ready:
            ended.recv(4096)
            _tell(running)
        if orders not in ready:
            continue
        head, given, _, _ = socket.recv_fds(orders, WORD, 3)
        if not head:
            break
        *written, last = given
        told = socket.socket(fileno=last)
        order = json.loads(_received(orders, int.from_bytes(head, "big")))
        if pid := os.fork():
            for each in written:
                os.close(each)
            running[pid] = told
            _say(told, pid)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (orders, ended, wakes, told, *running.values()):
            each.close()
        _become(*order, written=written)
        return
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _tell(running: dict[int, socket.socket]) -> None:
    """Of all that have ended since."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as told:
            _say(told, os.waitstatus_to_exitcode(status))


def _say(told: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # whoever let it go does not care how it ends
        told.sendall(number.to_bytes(WORD, "big", signed=True))


def _become(module: str, arguments: list[str], folder: str, environ: dict[str, str], *, written: list[int]) -> None:
    """That command, as Python itself would start it."""
    for number, each in enumerate(written, 1):
        os.dup2(each, number)
        os.close(each)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    sys.path[0] = folder
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
