"""A gate before an engine: so many answers at once, and a bounded line in which nobody is passed over.

What nobody waits for (``is_patient``: a job, a note on one part of a long text) leaves one slot to who waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from loquent.domain.errors import EngineBusy, EngineTimeout

LINE = 256  # calls that may wait; one more is sent away, of whoever has most there
TYPICAL = 2.0  # seconds that a call has its slot, until we know better

Asker = tuple[str, bool]  # who, and whether as one who is patient: his jobs do not stand before his questions
Line = deque[asyncio.Future[None]]


class Gate:
    """``slots`` calls at the same time. Those that wait go in turns: one of each asker, whoever has many."""

    def __init__(self, name: str, slots: int, line: int = LINE) -> None:
        self.waiting = 0
        self.inside = 0
        self._name = name
        self.slots = slots
        self._line = line
        self._patient = 0  # of those inside
        self._turns: deque[Asker] = deque()  # whose turn is next
        self._lines: dict[Asker, Line] = {}
        self._typical = TYPICAL

    @property
    def is_full(self) -> bool:
        """Whether one more call would have to wait."""
        return self.inside >= self.slots

    async def enter(self, asker: str, seconds: float, *, is_patient: bool = False) -> float:
        """Wait for a slot, so many seconds at most; gives the time at which it was had, for ``leave``.

        Raises EngineBusy: the line is full; EngineTimeout.
        """
        if not self.is_full and self._takes(is_patient):  # then no such call waits: a slot that is left is given on
            self.inside += 1
            self._patient += is_patient
            return time.monotonic()
        slot = self._queue((asker, is_patient))
        try:
            async with asyncio.timeout(seconds):
                await slot
        except TimeoutError as late:
            self._give_up((asker, is_patient), slot)
            raise EngineTimeout(f"model {self._name}: no slot became free in time") from late
        except asyncio.CancelledError:
            self._give_up((asker, is_patient), slot)
            raise
        return time.monotonic()

    def leave(self, entered: float | None, *, is_patient: bool = False) -> None:
        """Give the slot to the next in turn. ``entered``: since when it was had; None: it was given in vain."""
        if entered is not None:
            self._typical += 0.1 * (time.monotonic() - entered - self._typical)
        self.inside -= 1
        self._patient -= is_patient
        while asker := next((each for each in self._turns if self._takes(each[1])), None):
            self._turns.remove(asker)
            slot = self._lines[asker].popleft()
            if self._lines[asker]:
                self._turns.append(asker)
            else:
                del self._lines[asker]
            self.waiting -= 1
            if not slot.done():
                slot.set_result(None)
                self.inside += 1
                self._patient += asker[1]
                return

    def _takes(self, is_patient: bool) -> bool:
        """Whether a free slot is for such a call. Where there is but one, it is for all."""
        return not is_patient or self._patient < max(1, self.slots - 1)

    def _queue(self, asker: Asker) -> asyncio.Future[None]:
        """A place in the asker's own line. Where there is none left, the longest line gives up its last."""
        if self.waiting >= self._line:
            longest = max(self._lines.values(), key=len, default=Line())
            if len(longest) <= len(self._lines.get(asker, ())) + 1:
                raise self._busy()
            last = longest.pop()
            self.waiting -= 1
            if not last.done():
                last.set_exception(self._busy())
        if asker not in self._lines:
            self._lines[asker] = deque()
            self._turns.append(asker)
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines[asker].append(slot)
        self.waiting += 1
        return slot

    def _busy(self) -> EngineBusy:
        after = max(1.0, self._typical * self.waiting / self.slots)
        return EngineBusy(f"model {self._name} has {self.waiting} asks waiting", retry_after=round(after))

    def _give_up(self, asker: Asker, slot: asyncio.Future[None]) -> None:
        """It is not waited for any more. A slot that was given just now goes to the next one."""
        if not slot.cancelled():
            if slot.exception() is None:
                self.leave(None, is_patient=asker[1])
            return
        line = self._lines.get(asker)
        if line is None or slot not in line:
            return  # whoever gave a slot away has seen already that nobody waits here
        line.remove(slot)
        self.waiting -= 1
        if not line:
            del self._lines[asker]
            self._turns.remove(asker)
