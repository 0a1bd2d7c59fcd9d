"""A place among several server processes, and the line between who serves there and the parent.

The line is the child's standard input, a socket: the child says on it that it serves, the parent that another does now,
and its end tells the child that the parent is gone, however it went.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LINE = 0  # the child's end
WORD = b"."  # from the child: it serves; from the parent: another does


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands among the several that serve on one port."""

    number: int
    fd: int  # of the socket that all of them listen on
    folder: Path  # where they meet

    @classmethod
    def read(cls, text: str) -> Place:
        """From what ``str`` gives."""
        number, fd, folder = text.split(":", 2)
        return cls(int(number), int(fd), Path(folder))

    def __str__(self) -> str:
        return f"{self.number}:{self.fd}:{self.folder}"

    @staticmethod
    def watch(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> asyncio.Event:
        """Have ``told`` set when the parent is gone, or another serves here: then, before it, the event given back."""
        is_relieved = asyncio.Event()

        def hear() -> None:
            try:
                word = os.read(LINE, 1)
            except OSError:
                word = b""  # it went without reading what this one has said
            if word:
                is_relieved.set()
            else:
                loop.remove_reader(LINE)
            told.set()

        loop.add_reader(LINE, hear)
        return is_relieved

    @staticmethod
    def serves() -> None:
        """Tell the parent."""
        with suppress(OSError):  # it is gone, or of an older version that does not listen
            os.write(LINE, WORD)


@dataclass(eq=False, frozen=True, slots=True)
class Child:
    """A server process, as its parent has it."""

    process: Process
    line: socket.socket

    @classmethod
    async def start(cls, place: Place, environ: Mapping[str, str]) -> Child:
        """One that serves at that place, beside whoever does. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "loquent", "serve", "--child", str(place)),
                env=environ,
                stdin=theirs.fileno(),
                pass_fds=(place.fd,),
                start_new_session=True,  # Ctrl-C is for the parent alone, which passes it on
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    async def serves(self, seconds: float) -> bool:
        """Wait until it does; False where it ended before, or did not begin in that time."""
        try:
            async with asyncio.timeout(seconds):
                return bool(await asyncio.get_running_loop().sock_recv(self.line, 1))
        except (TimeoutError, OSError):
            return False

    def relieve(self) -> None:
        """Tell it that another serves in its place: it ends what it has begun, and itself."""
        with suppress(OSError):
            self.line.send(WORD)

    def stop(self) -> None:
        """Tell it to stop. A second time, as to a single server, ends it without waiting."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            self.process.kill()
