"""A cache in Redis or Valkey, shared by all processes. One that is away or slow costs a moment once, then nothing.

A call has 50 ms. When one ends otherwise than well, all further ones are refused at once until the server has answered
again, which is looked for in the background; there connections are made too, so that no call waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as Late

from loquent.domain.errors import Misconfigured, Unavailable
from loquent.domain.log import Log

T = TypeVar("T")
PREFIX = "loquent:cache:"
SECONDS = 0.05  # that a call may take
CONNECT = 2.0  # seconds in which a server that is there must be reached
CONNECTIONS = 8
LOOK = 0.1  # seconds between looks for a server that is away, doubled up to
LONGEST_LOOK = 2.0
log = Log("loquent.cache")


class Redis:
    """Values lie as they are, under keys with a prefix of ours; time runs out by the server's own clock."""

    def __init__(self, url: str) -> None:
        try:
            self._pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=None,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,
                socket_connect_timeout=None,
            )
        except ValueError:  # what it says may hold a piece of a password
            raise Misconfigured("LOQUENT_CACHE holds a URL that names no server") from None
        self._client: Any = redis.Redis.from_pool(self._pool)
        self._is_up = False
        self._healing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See the port."""
        if not await self._reach():
            self._lose("it cannot be reached")

    async def close(self) -> None:
        """See the port."""
        self._is_up = False
        if self._healing is not None:
            self._healing.cancel()
            await asyncio.gather(self._healing, return_exceptions=True)
            self._healing = None
        await self._client.aclose()

    async def ready(self) -> None:
        """See the port."""
        await self._ask(self._client.ping)

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        found: bytes | None = await self._ask(lambda: self._client.get(PREFIX + key))
        return found

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        """See the port."""
        await self._ask(lambda: self._client.set(PREFIX + key, value, px=max(1, round(seconds * 1000))))

    async def drop(self, *keys: str) -> None:
        """See the port."""
        if keys:
            await self._ask(lambda: self._client.delete(*(PREFIX + key for key in keys)))

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        if not self._is_up:
            raise Unavailable("the cache's server is away")
        try:
            async with asyncio.timeout(SECONDS):
                return await call()
        except (TimeoutError, OSError, Lost, Late) as error:
            self._lose(type(error).__name__)
            raise Unavailable("the cache's server does not answer in time") from error
        except RedisError as error:  # it is there, and refuses: full, read-only, no right to it
            raise Unavailable(f"the cache's server refuses: {type(error).__name__}") from error

    def _lose(self, why: str) -> None:
        self._is_up = False
        if self._healing is None or self._healing.done():
            log.warning("the cache is away", why=why)
            self._healing = asyncio.create_task(self._heal(), name="cache")

    async def _heal(self) -> None:
        wait = LOOK
        while not await self._reach():
            await asyncio.sleep(wait)
            wait = min(LONGEST_LOOK, wait * 2)
        log.info("the cache is back")

    async def _reach(self) -> bool:
        """Whether the server answers now, on every connection."""
        pings = (self._client.ping() for _ in range(CONNECTIONS))
        try:
            async with asyncio.timeout(CONNECT):
                said = await asyncio.gather(*pings, return_exceptions=True)
        except TimeoutError:
            return False
        self._is_up = not any(isinstance(each, BaseException) for each in said)
        return self._is_up
