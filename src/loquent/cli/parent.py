"""Several server processes on one port: a parent that starts them, starts anew whichever dies, and stops them all.

Each is a whole server of its own. They take connections from one socket, which the parent holds open meanwhile: while
one of them is away, the others take what comes.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loquent.domain.log import Log

if TYPE_CHECKING:
    from loquent.settings import Settings

log = Log("loquent.serve")
STEADY = 30.0  # seconds after which a process has not died of its start
PAUSE, LONGEST = 0.5, 30.0  # seconds before the first start anew, and before the last of many
SPARE = 15.0  # seconds beyond the settings' own that a stop may take
REFUSED = 2  # the exit code of a process that cannot use its settings


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
    def watch(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
        """Stop when the parent is gone, however it went: its end of our standard input is closed then."""

        def gone() -> None:
            loop.remove_reader(0)
            told.set()

        loop.add_reader(0, gone)


@dataclass
class Parent:
    """Keeps as many servers running as the settings say, until it is told to stop."""

    settings: Settings
    environ: Mapping[str, str]
    listening: socket.socket
    _running: dict[int, Process] = field(default_factory=dict)
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> int:
        """The exit code: 0 where it was told to stop and every process ended well."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._stop)
        folder = Path(tempfile.mkdtemp(prefix="loquent-"))
        log.info("starting", processes=self.settings.workers)
        try:
            places = (Place(number, self.listening.fileno(), folder) for number in range(self.settings.workers))
            keeping = [asyncio.create_task(self._keep(place)) for place in places]
            ending = asyncio.create_task(self._end())
            codes = await asyncio.gather(*keeping)
            ending.cancel()
            return max(codes, key=abs)
        finally:
            self.listening.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _stop(self) -> None:
        """Pass it on. A second one, as to a single server, ends them without waiting."""
        self._told.set()
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.terminate()

    async def _end(self) -> None:
        """What a stop wants of the parent: to hold the port no longer than its servers, nor wait for one for ever."""
        await self._told.wait()
        if self.settings.stop_delay:
            await asyncio.sleep(self.settings.stop_delay)
            self.listening.close()
        await asyncio.sleep(self.settings.stop_seconds + SPARE)
        for number, process in self._running.items():
            log.error("a server process does not stop; it is killed", process=number, pid=process.pid)
            with suppress(ProcessLookupError):
                process.kill()

    async def _keep(self, place: Place) -> int:
        """Start it, and start it anew when it dies; its last exit code once that is over."""
        deaths = 0
        while True:
            began = time.monotonic()
            try:
                code = await self._run(place)
            except OSError as error:  # no memory, no processes left: the others go on
                log.error("a server process cannot be started", process=place.number, why=str(error))
                code = 1
            if self._told.is_set():
                return code
            if code == REFUSED and not self._running:
                self._told.set()  # as it is with all the others: no start anew will help
                return code
            deaths = deaths + 1 if time.monotonic() - began < STEADY else 1
            pause = min(PAUSE * 2 ** (deaths - 1), LONGEST)
            log.error("a server process has ended; another is started", process=place.number, code=code, seconds=pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._told.wait()
                return 0

    async def _run(self, place: Place) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loquent", "serve", "--child", str(place)),
            env=self.environ,
            stdin=PIPE,
            pass_fds=(place.fd,),
            start_new_session=True,  # Ctrl-C is for the parent alone, which passes it on
        )
        self._running[place.number] = process
        if self._told.is_set():  # while it was being started
            process.terminate()
        try:
            return await process.wait()
        finally:
            del self._running[place.number]
