"""Promises: who was refused has been told when to come again, and from then on a place is kept for them.

A place is kept in every line that it counts in, until it is taken or has lapsed. So whoever comes beside cannot take
it, and nobody is let in past a bound for having been promised anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from loquent.domain.clock import SECOND, Moment, later, now

KEPT = 10.0  # seconds for which a promise holds
LONGEST = 300.0  # seconds until one may be claimed, at most
MOST = 10_000
ALL = ""  # the line of all tenants together; each tenant's own has its name

Caller = tuple[str, str]
"""A tenant, and who it is there."""


@dataclass(slots=True)
class Promises:
    """One to each caller at most."""

    _made: dict[Caller, Moment]
    _owed: Counter[str]  # of each line: those whose time has come, and those whose time is to come
    _due: Counter[str]  # of each line: those whose time has come before ``_seen``
    _seen: Moment

    def __init__(self) -> None:
        self._made, self._owed, self._due, self._seen = {}, Counter(), Counter(), Moment(0)

    def owed(self, line: str, *, but: Caller) -> int:
        """Places of that line that others were promised."""
        return self._owed[line] - (but in self._made)

    def due(self, line: str) -> int:
        """Places of that line that may be claimed as of now."""
        return self._due[line]

    def wait(self, caller: Caller) -> float:
        """The seconds until theirs may be claimed; 0: it may be now, or there is none."""
        return max(0.0, (self._made.get(caller, 0) - now()) / SECOND)

    def stands(self, caller: Caller) -> bool:
        """Whether they were promised a place, and come when they were told to."""
        at = self._made.get(caller)
        return at is not None and at <= now() < later(at, KEPT)

    def make(self, caller: Caller, at: Moment) -> bool:
        """Keep a place for them from then on, and none from before. False where too much is promised already."""
        self.settle(caller)
        if len(self._made) >= MOST:
            return False
        self._made[caller] = at
        self._count(caller, at, 1)
        return True

    def settle(self, caller: Caller) -> None:
        """Theirs, if any, is kept, or void."""
        if (at := self._made.pop(caller, None)) is not None:
            self._count(caller, at, -1)

    def forget(self, until: Moment) -> None:
        """Void what nobody took up, and see which may be claimed before that moment."""
        present = now()
        last = later(present, LONGEST)  # behind which none was made, unless the clock has been set back
        for caller in [caller for caller, at in self._made.items() if later(at, KEPT) <= present or at > last]:
            self.settle(caller)
        self._seen = until
        self._due = Counter(line for caller, at in self._made.items() if at <= until for line in _lines(caller))

    def _count(self, caller: Caller, at: Moment, by: int) -> None:
        for line in _lines(caller):
            self._owed[line] += by
            if at <= self._seen:
                self._due[line] += by
            if not self._owed[line]:
                del self._owed[line], self._due[line]


def _lines(caller: Caller) -> Iterator[str]:
    yield from (ALL, caller[0])
