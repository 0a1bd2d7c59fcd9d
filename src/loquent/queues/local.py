"""A queue within this process: a bell that its own worker hears; other processes find work by looking."""

from __future__ import annotations

import asyncio


class Local:
    """One event; a ring while nobody waits is heard by the next who does."""

    def __init__(self, url: str = "local:") -> None:
        self._bell = asyncio.Event()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Wake whoever waits."""
        self._bell.set()

    async def ready(self) -> None:
        """It is always there."""

    async def check(self) -> None:
        """It is always there."""

    async def ring(self, *ids: str) -> None:
        """Say that these are due."""
        self._bell.set()

    async def wait(self, seconds: float) -> None:
        """Return at a ring, or after that many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        except TimeoutError:
            return
        self._bell.clear()
