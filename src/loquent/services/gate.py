"""A gate before an engine: so many answers at once, and a bounded line in which nobody is passed over."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from loquent.domain.errors import EngineBusy

LINE = 256  # calls that may wait; one more is sent away


class Gate:
    """``slots`` calls at the same time. Those that wait go in turns: one of each asker, whoever has many."""

    def __init__(self, name: str, slots: int, line: int = LINE) -> None:
        self.waiting = 0
        self.inside = 0
        self._name = name
        self._slots = slots
        self._line = line
        self._turns: deque[str] = deque()  # whose turn is next
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._typical = 2.0  # seconds that a call has its slot, lately

    async def enter(self, asker: str) -> float:
        """Wait for a slot; gives the time at which it was had, for ``leave``. Raises EngineBusy: the line is full."""
        if self.inside < self._slots:  # then nobody waits: a slot that is left is given to the first in line
            self.inside += 1
            return time.monotonic()
        if self.waiting >= self._line:
            after = max(1.0, self._typical * self.waiting / self._slots)
            raise EngineBusy(f"model {self._name} has {self.waiting} asks waiting", retry_after=round(after))
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if asker not in self._lines:
            self._lines[asker] = deque()
            self._turns.append(asker)
        self._lines[asker].append(slot)
        self.waiting += 1
        try:
            await slot
        except asyncio.CancelledError:
            if slot.cancelled():
                self._give_up(asker, slot)
            else:  # it was given just now: it goes to the next one
                self.leave(None)
            raise
        return time.monotonic()

    def leave(self, entered: float | None) -> None:
        """Give the slot to the next in turn."""
        if entered is not None:
            self._typical += 0.1 * (time.monotonic() - entered - self._typical)
        while self._turns:
            asker = self._turns.popleft()
            slot = self._lines[asker].popleft()
            if self._lines[asker]:
                self._turns.append(asker)
            else:
                del self._lines[asker]
            self.waiting -= 1
            if not slot.done():
                slot.set_result(None)
                return
        self.inside -= 1

    def _give_up(self, asker: str, slot: asyncio.Future[None]) -> None:
        line = self._lines.get(asker)
        if line is None or slot not in line:
            return  # whoever gave a slot away has seen already that nobody waits here
        line.remove(slot)
        self.waiting -= 1
        if not line:
            del self._lines[asker]
            self._turns.remove(asker)
