"""A cache in Redis or Valkey, shared by all processes. One that is away or slow costs a moment once, then nothing."""

from __future__ import annotations

from collections.abc import Mapping

from loquent.links.redis import Link

PREFIX = "loquent:cache:"
SECONDS = 0.05  # that a call may take


class Redis:
    """Values lie as they are, under keys with a prefix of ours; time runs out by the server's own clock."""

    def __init__(self, url: str) -> None:
        self._link = Link(url, what="cache", setting="LOQUENT_CACHE", seconds=SECONDS)
        self._client = self._link.client
        self._hits = 0

    async def open(self) -> None:
        """See the port."""
        await self._link.open()

    async def close(self) -> None:
        """See the port."""
        await self._link.close()

    async def ready(self) -> None:
        """See the port."""
        await self._link.ask(self._client.ping)

    def figures(self) -> Mapping[str, float]:
        """See Watched."""
        return {"redis_hits": self._hits}

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        found: bytes | None = await self._link.ask(lambda: self._client.get(PREFIX + key))
        self._hits += found is not None
        return found

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        """See the port."""
        await self._link.ask(lambda: self._client.set(PREFIX + key, value, px=max(1, round(seconds * 1000))))

    async def drop(self, *keys: str) -> None:
        """See the port."""
        if keys:
            await self._link.ask(lambda: self._client.delete(*(PREFIX + key for key in keys)))
