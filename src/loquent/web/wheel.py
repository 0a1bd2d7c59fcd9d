"""A wheel of deadlines that are all equally far away: one timer of the event loop serves any number of them.

A timer of the loop for each request costs more than anything else that the edge does; an entry here, next to nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from loquent.domain.fixed import loose

TICKS = 4  # looks in the time of one deadline: it is met by at most a quarter of itself too late


@loose
class Entry:
    """One deadline. Cancelled by setting ``call`` to None."""

    at: float
    call: Callable[[], None] | None


class Wheel:
    """Deadlines ``seconds`` from when they were added; for one event loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._entries: deque[Entry] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._turns = False
        self.is_over = False

    def add(self, call: Callable[[], None]) -> Entry:
        """Call that when the time has passed, unless the entry is cancelled before."""
        loop = self.loop or self._begin()
        entry = Entry(loop.time() + self.seconds, call)
        self._entries.append(entry)
        if not self._turns:
            self._turns = True
            loop.call_later(self.seconds / TICKS, self._turn)
        return entry

    def ring_all(self) -> None:
        """Take every deadline for passed: there is no more time for anything."""
        self.is_over = True
        entries, self._entries = self._entries, deque()
        for entry in entries:
            if entry.call is not None:
                entry.call()

    def _begin(self) -> asyncio.AbstractEventLoop:
        self.loop = asyncio.get_running_loop()
        return self.loop

    def _turn(self) -> None:
        loop = self.loop or self._begin()
        now, entries = loop.time(), self._entries
        while entries and (entries[0].call is None or entries[0].at <= now):
            if (call := entries.popleft().call) is not None:
                call()
        self._turns = bool(entries)
        if entries:
            loop.call_later(self.seconds / TICKS, self._turn)
