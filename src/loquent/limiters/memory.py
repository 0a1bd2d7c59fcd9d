"""A limiter in this process's memory: exact sliding windows, one line of times for each key and window."""

from __future__ import annotations

from collections import deque

from loquent.domain.clock import SECOND, now
from loquent.limiters.windows import state_of, taken, tightest
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
        state = self._state(key, rates, present)
        if not state.allowed:
            return state
        for rate in rates:
            line = self._lines.get((key, rate.seconds))
            if line is None:
                line = self._lines[key, rate.seconds] = deque()
            line.append(present)
        return taken(state)

    async def give_back(self, key: str, rates: tuple[Rate, ...]) -> None:
        """Uncount the newest."""
        for rate in rates:
            if line := self._lines.get((key, rate.seconds)):
                line.pop()

    async def peek(self, key: str, rates: tuple[Rate, ...]) -> State:
        """The state without counting."""
        return self._state(key, rates, now())

    def _state(self, key: str, rates: tuple[Rate, ...], present: int) -> State:
        if len(rates) == 1:
            return _under(self._lines.get((key, rates[0].seconds)), rates[0], present)
        states = [_under(self._lines.get((key, rate.seconds)), rate, present) for rate in rates]
        return tightest(states)

    def _forget(self, present: int) -> None:
        for (key, seconds), line in list(self._lines.items()):
            if not line or line[-1] <= present - seconds * SECOND:
                del self._lines[key, seconds]


def _under(line: Line | None, rate: Rate, present: int) -> State:
    start = present - rate.seconds * SECOND
    while line and line[0] <= start:
        line.popleft()
    if not line:
        return state_of(rate, present, 0, 0, 0)
    frees = line[len(line) - rate.count] if len(line) >= rate.count else 0  # then there is room for one more
    return state_of(rate, present, len(line), line[-1], frees)
