"""A breaker: an engine that fails again and again is left alone for a while, then tried with one call.

closed ──so many faults in a row──▶ open ──its time is over──▶ half open ──one good call──▶ closed
                                      ▲                            │
                                      └──────one more fault────────┘
"""

from __future__ import annotations

import random
import time

from loquent.domain.errors import EngineBusy, EngineTimeout, LoquentError, NotInstalled, NotYet, Unavailable

FAULTS = 5  # in a row, after which an engine is left alone
FIRST, LONGEST = 2.0, 60.0  # seconds of rest, doubled each time that the trial fails too
CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"


class Breaker:
    """One engine's. All in one event loop; times are of the monotonic clock."""

    __slots__ = ("_faults", "_rest", "_tries", "_until")

    def __init__(self) -> None:
        self._faults = 0
        self._rest = FIRST
        self._until = 0.0  # no call before it
        self._tries = False  # the one trial of a half-open breaker is under way

    @property
    def state(self) -> str:
        """CLOSED, OPEN or HALF_OPEN."""
        if not self._until:
            return CLOSED
        return OPEN if time.monotonic() < self._until else HALF_OPEN

    def wait(self) -> float:
        """Seconds until a call may be made; 0: now."""
        if not self._until:
            return 0.0
        left = self._until - time.monotonic()
        return left if left > 0 else (self._rest / 2 if self._tries else 0.0)

    def enter(self) -> None:
        """A call is made, where ``wait`` was 0; of a half-open breaker it is the trial."""
        if self._until:
            self._tries = True

    def leave(self, fault: BaseException | None) -> None:
        """How the call went. None: well; what says nothing about the engine, as a caller who left, changes nothing."""
        if fault is None:
            if self._until or self._faults:
                self._faults, self._rest, self._until = 0, FIRST, 0.0
        elif is_ill(fault):
            self._faults += 1
            if self._tries or self._faults >= FAULTS:
                self._until = time.monotonic() + self._rest * random.uniform(0.9, 1.1)  # noqa: S311  (jitter)
                self._rest = min(LONGEST, self._rest * 2)
        elif isinstance(fault, LoquentError) and not isinstance(fault, Unavailable):
            self._faults, self._rest, self._until = 0, FIRST, 0.0  # it answered, though not what was wanted
        self._tries = False

    def rest(self, seconds: float) -> None:
        """The engine said: not for so long."""
        self._until = max(self._until, time.monotonic() + min(seconds, LONGEST))


def is_ill(fault: BaseException) -> bool:
    """Whether it speaks of the engine's health, and not of what was asked or of its being busy."""
    if isinstance(fault, Unavailable):
        return not isinstance(fault, NotYet | NotInstalled | EngineBusy)
    if isinstance(fault, LoquentError) and fault.engine_status in (401, 403):
        return True  # the key: no call will do better
    return isinstance(fault, EngineTimeout)
