"""Where a caller stands in a sliding window, from three numbers that any limiter can keep."""

from __future__ import annotations

from collections.abc import Iterable

from loquent.domain.clock import SECOND
from loquent.ports.limiter import Rate, State


def state_of(rate: Rate, present: int, held: int, newest: int, frees: int) -> State:
    """``held``: how many lie in the window, of which ``newest`` is the last; when ``frees`` leaves it, one may come."""
    start = present - rate.seconds * SECOND
    if not held:
        return State(True, rate, rate.count, 0.0, 0.0)
    reset = (newest - start) / SECOND
    remaining = max(0, rate.count - held)
    return State(remaining > 0, rate, remaining, reset, 0.0 if remaining else (frees - start) / SECOND)


def tightest(states: Iterable[State]) -> State:
    """The one that counts: the longest wait, then the least left, then the longest window."""
    return min(states, key=lambda state: (-state.retry_after, state.remaining, -state.rate.seconds))


def after_take(rate: Rate, held: int) -> State:
    """When one has just been counted, which makes ``held``."""
    return State(True, rate, rate.count - held, float(rate.seconds), 0.0)
