"""What is kept of answers: in a cache, under keys that say nothing, each only while its maker's record stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from loquent.domain.errors import Unavailable
from loquent.domain.generations import Generation
from loquent.domain.requests import ToolCall
from loquent.domain.usage import Usage
from loquent.ports.cache import Cache
from loquent.ports.figures import figures_of
from loquent.ports.store import Store
from loquent.services import metrics
from loquent.services.metrics import meter

T = TypeVar("T")
FORM = b"\x01"  # what a value begins with; another one was written by another version, and is none
MOST_BYTES = 1_000_000  # of an answer that is kept
AT_ONCE = 500  # keys that are dropped in one call
AGAIN = 1.0  # seconds between tries to drop what could not be dropped


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of a generation. ``usage`` is its maker's, but for the cost: told again it costs nothing."""

    maker: str  # the generation that made it: only while that stands on the record, it is told
    text: str
    finish_reason: str
    usage: Usage
    answered_by: str | None
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()


class Kept:
    """Answers by key. A cache that is away or slow holds nothing, which is counted; it never stands in the way."""

    def __init__(self, cache: Cache, store: Store, seconds: float) -> None:
        self._cache = cache
        self._store = store
        self._seconds = seconds
        self._owed: dict[str, float] = {}  # keys that could not be dropped, and when they are gone by themselves
        self._paying: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect; a cache that is away is no reason not to start."""
        await self._cache.open()

    async def close(self) -> None:
        """Let go, after one more try to drop what has to go."""
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.gather(self._paying, return_exceptions=True)
            self._paying = None
            await self._pay()
        await self._cache.close()

    async def ready(self) -> None:
        """Raises Unavailable where nothing can be kept now."""
        await self._cache.ready()

    def figures(self) -> Mapping[str, float]:
        """See Watched: those of the cache."""
        return figures_of(self._cache)

    async def find(self, key: str) -> Answer | None:
        """The answer under that key; None where there is none, or its maker has been erased, whoever did that."""
        value = None if key in self._owed else await self._tried("get", self._cache.get(key))
        if value is None or value[:1] != FORM:
            return None
        try:
            answer = _read.decode(value[1:])
            return answer if await self._store.get(Generation, answer.maker) else None
        except (msgspec.DecodeError, Unavailable):
            return None

    async def keep(self, key: str, answer: Answer) -> None:
        """Keep it for as long as answers are, where it is not huge."""
        value = FORM + msgspec.json.encode(answer)
        if len(value) <= MOST_BYTES:
            await self._tried("put", self._cache.put(key, value, self._seconds))

    async def drop(self, keys: Iterable[str]) -> None:
        """Drop them now, or as soon as the cache is back; until then nobody here is told of them."""
        self._owed.update(dict.fromkeys(keys, time.monotonic() + self._seconds))
        await self._pay()
        if self._owed and (self._paying is None or self._paying.done()):
            self._paying = asyncio.create_task(self._pay_later(), name="dropped answers")

    async def _pay_later(self) -> None:
        while self._owed:
            await asyncio.sleep(AGAIN)
            present = time.monotonic()
            self._owed = {key: gone for key, gone in self._owed.items() if gone > present}
            await self._pay()

    async def _pay(self) -> None:
        owed = list(self._owed)
        for start in range(0, len(owed), AT_ONCE):
            keys = owed[start : start + AT_ONCE]
            try:
                await self._cache.drop(*keys)
            except Unavailable:
                meter(metrics.cache_faults, "drop").inc()
                return
            for key in keys:
                self._owed.pop(key, None)

    async def _tried(self, call: str, under_way: Awaitable[T]) -> T | None:
        try:
            return await under_way
        except Unavailable:
            meter(metrics.cache_faults, call).inc()
            return None


_read = msgspec.json.Decoder(Answer)
