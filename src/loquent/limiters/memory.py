"""A limiter in this process's memory: exact sliding windows, one line of times for each key and window."""

from __future__ import annotations

from collections import deque

from loquent.domain.clock import SECOND, now
from loquent.limiters.windows import after_take, state_of, tightest
from loquent.ports.limiter import Rate, State

FORGET_EVERY = 10_000  # takes between two looks for keys that nobody used for their longest window
Line = deque[int]


class Memory:
    """Counts exactly, at a cost that does not grow with the counts; what is out of every window is forgotten."""

    def __init__(self, url: str = "memory:") -> None:
        self._lines: dict[tuple[str, int], Line] = {}  # by key and window, oldest time first
        self._takes = 0

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def ready(self) -> None:
        """It is always there."""

    async def take(self, key: str, rates: tuple[Rate, ...]) -> State:
        """Count one where every rate allows it."""
        present = now()
        self._takes += 1
        if self._takes % FORGET_EVERY == 0:
            self._forget(present)
        if len(rates) == 1:  # as nearly always
            rate, line = rates[0], self._line(key, rates[0], present)
            if len(line) >= rate.count:
                return _under(line, rate, present)
            line.append(present)
            return after_take(rate, len(line))
        lines = [self._line(key, rate, present) for rate in rates]
        for line, rate in zip(lines, rates, strict=True):
            if len(line) >= rate.count:
                return self._state(key, rates, present)
        for line in lines:
            line.append(present)
        return tightest(after_take(rate, len(line)) for line, rate in zip(lines, rates, strict=True))

    async def give_back(self, key: str, rates: tuple[Rate, ...]) -> None:
        """Uncount the newest."""
        for rate in rates:
            if line := self._lines.get((key, rate.seconds)):
                line.pop()

    async def peek(self, key: str, rates: tuple[Rate, ...]) -> State:
        """The state without counting."""
        return self._state(key, rates, now())

    def _state(self, key: str, rates: tuple[Rate, ...], present: int) -> State:
        states = [_under(self._lines.get((key, rate.seconds)), rate, present) for rate in rates]
        return tightest(states)

    def _line(self, key: str, rate: Rate, present: int) -> Line:
        """The times in this window, for one to be added."""
        line = self._lines.get((key, rate.seconds))
        if line is None:
            line = self._lines[key, rate.seconds] = deque()
        _leave(line, rate, present)
        return line

    def _forget(self, present: int) -> None:
        for (key, seconds), line in list(self._lines.items()):
            if not line or line[-1] <= present - seconds * SECOND:
                del self._lines[key, seconds]


def _leave(line: Line, rate: Rate, present: int) -> Line:
    """Take out what is no longer in the window."""
    start = present - rate.seconds * SECOND
    while line and line[0] <= start:
        line.popleft()
    return line


def _under(line: Line | None, rate: Rate, present: int) -> State:
    if not line or not _leave(line, rate, present):
        return state_of(rate, present, 0, 0, 0)
    frees = line[len(line) - rate.count] if len(line) >= rate.count else 0  # then there is room for one more
    return state_of(rate, present, len(line), line[-1], frees)
