"""Two levels: this process's memory before a cache that all processes share, which alone is right.

What is in memory is believed for a second and then looked up again, so a value that another process dropped is found
here for no longer than that.
"""

from __future__ import annotations

from collections.abc import Mapping

from loquent.ports.cache import Cache
from loquent.ports.figures import figures_of

NEAR_SECONDS = 1.0


class Levels:
    """``near`` before ``far``."""

    def __init__(self, near: Cache, far: Cache) -> None:
        self._near = near
        self._far = far

    async def open(self) -> None:
        """See the port."""
        await self._near.open()
        await self._far.open()

    async def close(self) -> None:
        """See the port."""
        await self._far.close()
        await self._near.close()

    async def ready(self) -> None:
        """Whether the shared one can be asked."""
        await self._far.ready()

    def figures(self) -> Mapping[str, float]:
        """See Watched: those of both."""
        return {**figures_of(self._near), **figures_of(self._far)}

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        found = await self._near.get(key)
        if found is None and (found := await self._far.get(key)) is not None:
            await self._near.put(key, found, NEAR_SECONDS)
        return found

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        """See the port."""
        await self._far.put(key, value, seconds)
        await self._near.put(key, value, min(seconds, NEAR_SECONDS))

    async def drop(self, *keys: str) -> None:
        """See the port."""
        await self._near.drop(*keys)
        await self._far.drop(*keys)
        await self._near.drop(*keys)  # somebody may have looked it up between the two
