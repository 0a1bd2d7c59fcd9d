"""Jobs that may be what killed their processes: the last run of each is alone, so that none fails for a neighbour.

When a process dies, all that it ran has lost a run, and one of them may be to blame. Nobody can tell which; but one
that dies alone has had nobody beside it. So a job that has lost every run but its last waits, back in the store and
its attempt given back, until all else here is over; then it runs by itself. They take turns with all other work: a
newcomer waits for one of them at most. A passing fault of an engine makes no suspect: that run came to an end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

from loquent.domain.clock import later, now
from loquent.domain.errors import LoquentError, Stale
from loquent.domain.evolve import evolve
from loquent.domain.generations import BACKGROUND, PROCESSING, Generation, claimed, postponed, released
from loquent.domain.log import Log
from loquent.ports.store import Replace, Store
from loquent.services.pace import Pace

log = Log("loquent.jobs")


class Suspects:
    """What one worker has taken and may only run alone."""

    def __init__(self, store: Store, pace: Pace, by: str) -> None:
        self._store, self._pace, self._by = store, pace, by
        self._waiting: deque[Generation] = deque()
        self._writing = asyncio.Lock()  # whoever writes those that wait: each write builds on the one before
        self._is_running = False
        self._had_turn = False

    def room(self, slots: int, running: int) -> int:
        """How many more jobs may be taken: none beside a suspect, nor while one waits for the others to end."""
        if running == 0:
            self._is_running = False
        return 0 if running and (self._is_running or self._waiting) else slots - running

    async def claim(self) -> list[Generation]:
        """The next that waited, claimed anew; none where none waits, others took them all, or it is others' turn."""
        if self._had_turn:
            self._had_turn = False
            return []
        async with self._writing:
            while self._waiting:
                record = self._waiting[0]
                put, _ = claimed(later(now(), self._pace.lease), self._by)
                last = evolve(record, **put, attempts=self._pace.max_attempts, fence=record.fence + 1)
                taken = await self._replaced(record, last)
                self._waiting.popleft()
                if taken is not None:
                    return [taken]
        return []

    async def sift(self, taken: Sequence[Generation], running: int) -> list[Generation]:
        """Those of the jobs just taken that may run now. Suspects among others are put back, before any of them runs.

        For the length of a lease, and while ``keep`` is called, they are this worker's to claim again; then they are
        due to everybody.
        """
        suspects = [each for each in taken if self._is_suspect(each)]
        if not suspects:
            return list(taken)
        others = [each for each in taken if not self._is_suspect(each)]
        if not others and not running:
            self._is_running = self._had_turn = True
            others = [suspects.pop(0)]
        for each in suspects:
            log.info("waits to run alone", generation=each.id, attempts=each.attempts)
        async with self._writing:
            self._waiting += await self._put_back(suspects)
        return others

    async def keep(self) -> None:
        """Go on holding those that wait, however long the others take; those that somebody has touched are not ours."""
        async with self._writing:
            self._waiting = deque(await self._put_back(self._waiting))

    async def close(self) -> None:
        """Let others have those that wait, now; where the store is away, they are due when their time has come."""
        with suppress(LoquentError):  # the first to fail speaks for all: each would take all of the store's patience
            for record in self._waiting:
                await self._replaced(record, _left(record, 0))
        self._waiting.clear()

    def _is_suspect(self, taken: Generation) -> bool:
        runs = taken.attempts if taken.mode == BACKGROUND and not taken.cancel_requested else 0
        return runs == self._pace.max_attempts > 1 and taken.error_code is None

    async def _put_back(self, records: Iterable[Generation]) -> list[Generation]:
        """Those that are still ours, as they now are. One that could not be written is: its last run is to come."""
        olds = list(records)
        writes = (self._replaced(each, _left(each, self._pace.lease)) for each in olds)
        ours = []
        for old, came in zip(olds, await asyncio.gather(*writes, return_exceptions=True), strict=True):
            if isinstance(came, BaseException):
                log.warning("cannot put back what is to run alone", generation=old.id, why=str(came))
                ours.append(old)
            elif came is not None:
                ours.append(came)
        return ours

    async def _replaced(self, old: Generation, new: Generation) -> Generation | None:
        try:
            await self._store.write(Replace(old, new))
        except Stale:
            return None  # somebody has touched it: it is as they left it
        return evolve(new, version=old.version + 1)


def _left(record: Generation, seconds: float) -> Generation:
    """Pending, and due in that many seconds; its last run is given back where it was counted."""
    return (released if record.status == PROCESSING else postponed)(record, seconds=seconds)
