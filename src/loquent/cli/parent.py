"""Several server processes on one port: a parent that starts them, starts anew whichever dies, and stops them all.

Each is a whole server of its own. They take connections from one socket, which the parent holds open meanwhile: while
one of them is away, the others take what comes. Told by SIGHUP, it has them all replaced, one after the other, by what
is installed now: each serves before the one in its place is told to end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loquent.cli.place import Child, Place
from loquent.domain.log import Log

if TYPE_CHECKING:
    from loquent.settings import Settings

log = Log("loquent.serve")
STEADY = 30.0  # seconds after which a process has not died of its start
PAUSE, LONGEST = 0.5, 30.0  # seconds before the first start anew, and before the last of many
SPARE = 15.0  # seconds beyond the settings' own that a stop may take
START = 300.0  # seconds in which one that is to replace another must serve
REFUSED = 2  # the exit code of a process that cannot use its settings


@dataclass
class Parent:
    """Keeps as many servers running as the settings say, until it is told to stop."""

    settings: Settings
    environ: Mapping[str, str]
    listening: socket.socket
    _children: set[Child] = field(default_factory=set)  # all that have not ended
    _serving: dict[int, Child] = field(default_factory=dict)  # by place; those that others replace are not among them
    _placing: asyncio.Lock = field(default_factory=asyncio.Lock)  # whoever puts a child into a place
    _told: asyncio.Event = field(default_factory=asyncio.Event)
    _renewing: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """The exit code: 0 where it was told to stop and every process ended well."""
        loop = asyncio.get_running_loop()
        folder = Path(tempfile.mkdtemp(prefix="loquent-"))
        places = [Place(number, self.listening.fileno(), folder) for number in range(self.settings.workers)]
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._stop)
        if not os.isatty(0):  # there it says that the terminal is closed, and ends all as ever
            loop.add_signal_handler(signal.SIGHUP, self._renew, places)
        log.info("starting", processes=self.settings.workers)
        try:
            keeping = [asyncio.create_task(self._keep(place)) for place in places]
            ending = asyncio.create_task(self._end())
            codes = await asyncio.gather(*keeping)
            if self._renewing is not None:
                await self._renewing
            for child in list(self._children):  # one that was to replace another, and is kept by nobody yet
                await self._end_of(child)
            ending.cancel()
            return max(codes, key=abs)
        finally:
            self.listening.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _stop(self) -> None:
        """Pass it on. A second one, as to a single server, ends them without waiting."""
        self._told.set()
        for child in self._children:
            child.stop()

    async def _end(self) -> None:
        """What a stop wants of the parent: to hold the port no longer than its servers, nor wait for one for ever."""
        await self._told.wait()
        if self.settings.stop_delay:
            await asyncio.sleep(self.settings.stop_delay)
            self.listening.close()
        await asyncio.sleep(self.settings.stop_seconds + SPARE)
        for child in self._children:
            log.error("a server process does not stop; it is killed", pid=child.process.pid)
            child.kill()

    # One place

    async def _keep(self, place: Place) -> int:
        """Start one there, and start it anew when it dies; its last exit code once that is over."""
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
            if code == REFUSED and not self._serving:
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
        """Have one there; the exit code of the last, where others have replaced it."""
        async with self._placing:
            if place.number not in self._serving:
                self._serving[place.number] = await self._start(place)
        while True:
            child = self._serving[place.number]
            code = await self._end_of(child)
            if self._serving[place.number] is child:
                del self._serving[place.number]
                return code

    async def _start(self, place: Place) -> Child:
        child = await Child.start(place, self.environ)
        self._children.add(child)
        if self._told.is_set():  # while it was being started
            child.stop()
        return child

    async def _end_of(self, child: Child) -> int:
        code = await child.process.wait()
        self._children.discard(child)
        child.line.close()
        return code

    # All of them anew

    def _renew(self, places: Sequence[Place]) -> None:
        if self._renewing is not None and not self._renewing.done():
            log.warning("the server processes are being replaced already")
        elif not self._told.is_set():
            self._renewing = asyncio.create_task(self._replace_all(places))

    async def _replace_all(self, places: Sequence[Place]) -> None:
        """One after the other; where one cannot be replaced, it and those after it stay."""
        log.info("replacing", processes=len(places))
        for place in places:
            if not await self._replace(place):
                if not self._told.is_set():
                    log.error("a new server process does not serve; the old ones stay", process=place.number)
                return
        log.info("replaced", processes=len(places))

    async def _replace(self, place: Place) -> bool:
        """Whether another serves there now, and the one that did has ended."""
        try:
            child = await self._start(place)
        except OSError as error:
            log.error("a server process cannot be started", process=place.number, why=str(error))
            return False
        if not await child.serves(START) or self._told.is_set():
            if not self._told.is_set():
                child.kill()
            await self._end_of(child)
            return False
        async with self._placing:
            former = self._serving.get(place.number)
            self._serving[place.number] = child
        if former is not None:
            former.relieve()
            await self._last_of(former)
        return True

    async def _last_of(self, former: Child) -> None:
        """Wait until it has ended, but not for ever."""
        try:
            async with asyncio.timeout(self.settings.stop_delay + self.settings.stop_seconds + SPARE):
                await self._end_of(former)
        except TimeoutError:
            log.error("a server process does not stop; it is killed", pid=former.process.pid)
            former.kill()
            await self._end_of(former)
