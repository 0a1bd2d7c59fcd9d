"""A link to Redis or Valkey that costs a moment once when the server is away or slow, and then nothing.

When a call ends otherwise than well, all further ones are refused at once until the server has answered again, which
is looked for in the background; there connections are made too, so that no call waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as Late

from loquent.domain.errors import Misconfigured, Unavailable
from loquent.domain.log import Log
from loquent.domain.outages import Outage
from loquent.domain.urls import check_server

T = TypeVar("T")
CONNECT = 2.0  # seconds in which a server that is there must be reached
LOOK = 0.1  # seconds between looks for a server that is away, doubled up to
LONGEST_LOOK = 2.0


class Link:
    """``what``: the part that it serves, as log lines and messages call it; ``setting``: what names its URL.

    ``seconds`` bound a call; the URL may say otherwise: redis://host:6379/0?patience=0.5.
    """

    def __init__(self, url: str, *, what: str, setting: str, seconds: float, connections: int = 8) -> None:
        self._what, self._connections = what, connections
        self._outage = Outage(Log(f"loquent.{what}"), gone="the server is away", back="the server is back")
        self._why = ""  # it was not reached when it was last looked for
        check_server(url, setting)
        try:
            url, self._seconds = _parts(url, seconds)
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=connections,
                timeout=None,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,
                socket_connect_timeout=None,
            )
        except ValueError:  # what it says may hold a piece of a password
            raise Misconfigured(f"{setting} holds a URL that names no server") from None
        self.client: Any = redis.Redis.from_pool(pool)
        self.is_up = False
        self._healing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Reach the server, or begin to look for it."""
        if not await self._reach():
            self._lose(self._why)

    async def close(self) -> None:
        """Let go. May be called twice."""
        self.is_up = False
        if self._healing is not None:
            self._healing.cancel()
            await asyncio.gather(self._healing, return_exceptions=True)
            self._healing = None
        await self.client.aclose()

    async def check(self) -> None:
        """Log in to it now, for people who ask: in seconds. Raises Unavailable with the whole reason."""
        if not await self._reach():
            raise Unavailable(f"the server of the {self._what} does not answer: {self._why}")

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the server says to this. Raises Unavailable: it is away, slow, or refuses."""
        if not self.is_up:
            raise Unavailable(f"the server of the {self._what} is away")
        try:
            async with asyncio.timeout(self._seconds):
                return await call()
        except (TimeoutError, OSError, Lost, Late) as error:
            self._lose(type(error).__name__)
            raise Unavailable(f"the server of the {self._what} does not answer in time") from error
        except RedisError as error:  # it is there, and refuses: full, read-only, no right to it
            raise Unavailable(f"the server of the {self._what} refuses: {type(error).__name__}") from error

    def _lose(self, why: str) -> None:
        self.is_up = False
        if self._healing is None or self._healing.done():
            self._outage.gone(self._what, why)
            self._healing = asyncio.create_task(self._heal(), name=self._what)

    async def _heal(self) -> None:
        wait = LOOK
        while not await self._reach():
            self._outage.gone(self._what, self._why)
            await asyncio.sleep(wait)
            wait = min(LONGEST_LOOK, wait * 2)
        self._outage.back(self._what)

    async def _reach(self) -> bool:
        """Whether the server answers now, on every connection."""
        pings = (self.client.ping() for _ in range(self._connections))
        try:
            async with asyncio.timeout(CONNECT):
                said = await asyncio.gather(*pings, return_exceptions=True)
        except TimeoutError:
            self._why = "it says nothing"
            return False
        self._why = next((str(each) or repr(each) for each in said if isinstance(each, BaseException)), "")
        self.is_up = not self._why
        return self.is_up


def _parts(url: str, seconds: float) -> tuple[str, float]:
    """The URL as the library takes it, and our patience. Raises ValueError."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    patience = float(options.pop("patience", seconds))
    if not 0 < patience <= 60:
        raise ValueError
    return urlunsplit(parts._replace(query=urlencode(options))), patience
