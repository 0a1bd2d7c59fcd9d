"""The limiter: counts what somebody did in sliding windows, and says when more is allowed."""

from __future__ import annotations

from typing import Protocol

from loquent.domain.fixed import fixed


@fixed
class Rate:
    """``count`` in any ``seconds``."""

    count: int
    seconds: int


@fixed
class State:
    """Where a caller stands under the tightest of its rates; of two alike, the one with the longer window."""

    allowed: bool
    rate: Rate
    remaining: int
    reset: float  # seconds until the window is empty again
    retry_after: float  # seconds after which one more is allowed; 0 where it is allowed now


class Limiter(Protocol):
    """Counts in sliding windows: at no moment lie more than ``count`` within the last ``seconds``.

    A refused attempt is not counted, so waiting ``retry_after`` succeeds.
    """

    async def open(self) -> None:
        """Connect, where there is something to connect to."""

    async def close(self) -> None:
        """Let go. May be called twice."""

    async def ready(self) -> None:
        """Return quickly where all processes count together; raises Unavailable where this one counts for itself."""

    async def take(self, key: str, rates: tuple[Rate, ...]) -> State:
        """Count one for this key where every rate allows it; the state is that of the tightest rate."""
        ...

    async def give_back(self, key: str, rates: tuple[Rate, ...]) -> None:
        """Uncount the newest one: what was taken for did not happen."""

    async def peek(self, key: str, rates: tuple[Rate, ...]) -> State:
        """The state without counting."""
        ...
