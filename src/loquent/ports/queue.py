"""The queue: a doorbell. It carries ids only; the record in the store is the truth."""

from __future__ import annotations

from typing import Protocol


class Queue(Protocol):
    """Tells workers that there is something to look at.

    A ring may be lost and may come twice: nothing depends on it but speed. Ringing never blocks for long and never
    raises for a queue that is away.
    """

    async def open(self) -> None:
        """Connect, where there is something to connect to."""

    async def close(self) -> None:
        """Let go. May be called twice."""

    async def ready(self) -> None:
        """Return quickly where rings are heard by others; raises Unavailable where they wait or are lost."""

    async def check(self) -> None:
        """Log in to it now, for people who ask: in seconds. Raises Unavailable with the whole reason."""

    async def ring(self, *ids: str) -> None:
        """Say that these generations are due."""

    async def wait(self, seconds: float) -> None:
        """Return at a ring, or after that many seconds."""
