"""Jobs that may be what killed their processes: the last run of each is alone, so that none fails for a neighbour.

When a process dies, all that it ran has lost a run, and one of them may be to blame. Nobody can tell which; but one
that dies alone has had nobody beside it. So a job that has lost every run but its last waits, back in the store and
its attempt given back, until all else here is over; then it runs by itself. A passing fault of an engine makes no
suspect: that run came to an end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from loquent.domain.clock import later, now
from loquent.domain.errors import LoquentError, Stale
from loquent.domain.evolve import evolve
from loquent.domain.generations import BACKGROUND, Generation, claimed, released, restarted
from loquent.domain.log import Log
from loquent.ports.store import Replace, Store
from loquent.services.runner import Pace

log = Log("loquent.jobs")


class Suspects:
    """What one worker has taken and may only run alone."""

    def __init__(self, store: Store, pace: Pace, by: str) -> None:
        self._store, self._pace, self._by = store, pace, by
        self._waiting: deque[Generation] = deque()
        self._is_running = False

    def room(self, slots: int, running: int) -> int:
        """How many more jobs may be taken: none beside a suspect, nor while one waits for the others to end."""
        if running == 0:
            self._is_running = False
        return 0 if running and (self._is_running or self._waiting) else slots - running

    async def claim(self) -> list[Generation]:
        """The next that waited, claimed anew; none where none waits, or others have taken them all."""
        while self._waiting:
            record = self._waiting.popleft()
            put, add = claimed(later(now(), self._pace.lease), self._by)
            raised = {name: getattr(record, name) + by for name, by in add.items()}
            if (taken := await self._replaced(record, evolve(record, **put, **raised))) is not None:
                return [taken]
        return []

    async def sift(self, taken: Sequence[Generation], running: int) -> list[Generation]:
        """Those of the jobs just taken that may run now. Suspects among others are put back, before any of them runs.

        For the length of a lease they are this worker's to claim again; then they are due to everybody.
        """
        suspects = [each for each in taken if self._is_suspect(each)]
        if not suspects:
            return list(taken)
        others = [each for each in taken if not self._is_suspect(each)]
        if not others and not running:
            self._is_running, others = True, [suspects.pop(0)]
        for each in suspects:
            log.info("waits to run alone", generation=each.id, attempts=each.attempts)
            if (left := await self._replaced(each, released(each, seconds=self._pace.lease))) is not None:
                self._waiting.append(left)
        return others

    async def close(self) -> None:
        """Let others have those that wait, now; where the store is away, they are due when their time has come."""
        while self._waiting:
            record = self._waiting.popleft()
            with suppress(LoquentError):
                await self._replaced(record, restarted(record))

    def _is_suspect(self, taken: Generation) -> bool:
        runs = taken.attempts if taken.mode == BACKGROUND and not taken.cancel_requested else 0
        return runs == self._pace.max_attempts > 1 and taken.error_code is None

    async def _replaced(self, old: Generation, new: Generation) -> Generation | None:
        try:
            await self._store.write(Replace(old, new))
        except Stale:
            return None  # somebody has touched it: it is as they left it
        return evolve(new, version=old.version + 1)
