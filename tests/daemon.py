"""A server of somebody else's as a process of a test: started, killed, frozen, thawed and started anew."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import cycle, islice
from pathlib import Path

START = 90.0  # seconds that a start may take
BLOCK = 250
BLOCKS = range(10_000, 32_500, BLOCK)  # below those that systems give to whoever asks for any


def free_port() -> int:
    """One of loopback that nothing listens on; no other process of tests takes it, though its server is killed."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """As many, each another one."""
    return list(islice(_own(), count))


@cache
def _own() -> Iterator[int]:
    """The ports of this process, in turn. It holds the first one of its block, for as long as it lives."""
    for first in BLOCKS:
        held = socket.socket()
        with suppress(OSError):
            held.bind(("127.0.0.1", first))
            atexit.register(held.close)
            return filter(_is_free, cycle(range(first + 1, first + BLOCK)))
        held.close()
    raise RuntimeError("the ports of all blocks are taken")


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        return True
    return False


def says(port: int, hello: bytes, *beginnings: bytes) -> bool:
    """Whether what listens on that port of loopback answers this greeting with one of these."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as link:
        link.sendall(hello)
        return link.recv(100).startswith(beginnings)
    return False


class Daemon:
    """One command, in one folder, where its output goes on in ``{name}.log``."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        answers: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._answers = answers
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"the server does not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def start_once(self) -> None:
        """Start it where it does not run yet."""
        if self._process is None:
            self.start()

    def kill(self) -> None:
        """End it at once, frozen or not."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it hold its connections and say nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
