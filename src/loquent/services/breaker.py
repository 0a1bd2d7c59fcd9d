"""A breaker: an engine that fails again and again is left alone for a while, then tried with one call.

closed ──so many faults in a row──▶ open ──its time is over──▶ half open ──the trial's first piece──▶ closed
                                      ▲                            │
                                      └──────one more fault────────┘
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from loquent.domain.errors import (
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    Invalid,
    NotInstalled,
    NotYet,
    Unavailable,
)

FAULTS = 5  # in a row, after which an engine is left alone
FIRST, LONGEST = 2.0, 60.0  # seconds of rest, doubled each time that the trial fails too
TRIAL = 1.0  # seconds after which a caller may look again, while the trial is under way
CLOSED, HALF_OPEN, OPEN = "closed", "half_open", "open"
STATES = (CLOSED, HALF_OPEN, OPEN)
NO_CALL_WILL_DO = (401, 402, 403, 429)  # of HTTP, where the engine failed: the key, the money


class Breaker:
    """One engine's. All in one event loop. ``clock`` gives seconds, and never goes back."""

    __slots__ = ("_asked_until", "_clock", "_faults", "_is_trying", "_rest", "_until")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._faults = 0  # in a row
        self._rest = FIRST
        self._until = 0.0  # the rest after faults; 0: closed
        self._asked_until = 0.0  # the rest that the engine asked for; 0: none
        self._is_trying = False  # the one trial of a half-open breaker is under way

    @property
    def state(self) -> str:
        """One of STATES."""
        now = self._clock()
        if now < self._until or now < self._asked_until:
            return OPEN
        return HALF_OPEN if self._until else CLOSED

    def wait(self) -> float:
        """Seconds until a call may be made; 0: now."""
        if not self._until and not self._asked_until:
            return 0.0
        now = self._clock()
        left = max(self._until, self._asked_until) - now
        if left > 0:
            return left
        self._asked_until = 0.0
        return TRIAL if self._is_trying else 0.0

    def enter(self) -> bool:
        """A call is made, now that ``wait`` is 0. Whether it is the trial: ``leave`` has to know."""
        self._is_trying = bool(self._until)
        return self._is_trying

    def close(self) -> None:
        """The trial's answer has begun: all may call again. Until one has ended well, one fault opens it anew."""
        self._until, self._is_trying = 0.0, False

    def leave(self, is_well: bool | None, *, is_trial: bool = False) -> None:
        """How a call went, by ``tells``. None: it says nothing of the engine, as where the caller left."""
        if is_trial:
            self._is_trying = False
        elif self._until:
            return  # it began before the engine was left alone: of that fall it tells nothing new
        if is_well:
            self._faults, self._rest, self._until = 0, FIRST, 0.0
        elif is_well is False:
            self._faults += 1
            if self._faults >= FAULTS:
                self._until = self._clock() + self._rest * random.uniform(0.9, 1.1)  # noqa: S311  (jitter)
                self._rest = min(LONGEST, self._rest * 2)

    def rest(self, seconds: float) -> None:
        """The engine said: not for so long. Calls that are under way do not change that."""
        self._asked_until = max(self._asked_until, self._clock() + min(seconds, LONGEST))


def tells(fault: BaseException | None) -> bool | None:
    """What the end of a call says of the engine's health: True that it is well, False that it is ill, None nothing.

    That it is busy, that a model loads, that an answer could not be read, or that the caller left, say nothing.
    """
    if fault is None or isinstance(fault, Invalid):
        return True
    if isinstance(fault, EngineFailed):
        return False if fault.engine_status in NO_CALL_WILL_DO else None
    if isinstance(fault, Unavailable):
        return None if isinstance(fault, NotYet | NotInstalled | EngineBusy) else False
    return False if isinstance(fault, EngineTimeout) else None
