"""What is due to go: all that is as old as some moment, oldest first; what can never be due is looked at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from loquent.domain import ids
from loquent.domain.clock import Moment, later
from loquent.domain.generations import Generation
from loquent.domain.idempotency import Repeat
from loquent.domain.sessions import Session
from loquent.ports.store import MOST_CHANGES, Position, Store

STEP = 200  # records in one query


class Due:
    """Walks through the records of everybody. It remembers, from walk to walk, where nothing will ever be due."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns_before: Position | None = None  # up to there all that is left are turns
        self._closed_before: Position | None = None  # up to there all sessions are closed

    async def quiet(self, until: Moment) -> AsyncIterator[Session]:
        """Sessions in which nothing has been said since."""
        async for each in self._listed(Session, "quiet", "last_active_at", until=until):
            yield each

    async def open(self, until: Moment, gone: Moment | None) -> AsyncIterator[Session]:
        """Sessions that have expired and are not known to; those that ``gone`` removes are not worth a word."""
        is_first = True
        after = self._closed_before
        async for each in self._listed(Session, "quiet", "last_active_at", until=until, after=after):
            if not each.is_active and is_first:
                self._closed_before = Position(each.last_active_at, each.id)
            elif each.is_active:
                is_first = False
                if gone is None or each.last_active_at > gone:
                    yield each

    async def lone(self, until: Moment) -> AsyncIterator[Generation]:
        """Generations that are no turns. Where only turns are left before some place, no later pass looks there."""
        is_first = True
        bound, after = ids.floor("gen", later(until, 1)), self._turns_before
        async for each in self._listed(Generation, "all", "id", until=bound, after=after):
            if each.session is not None:
                if is_first:
                    self._turns_before = Position(each.id, each.id)
                continue
            is_first = False
            if each.is_over and each.created_at <= until:
                yield each

    async def uploaded(self, kind: type[Any], prefix: str, until: Moment) -> AsyncIterator[Any]:
        """Documents or images, whose ids begin so."""
        async for each in self._listed(kind, "all", "id", until=ids.floor(prefix, later(until, 1))):
            if each.created_at <= until:
                yield each

    async def repeats(self, until: Moment) -> AsyncIterator[Repeat]:
        """Idempotency keys that have expired."""
        async for each in self._listed(Repeat, "expiring", "expires_at", until=until):
            yield each

    async def _listed(
        self, kind: type[Any], order: str, by: str, *, until: Any, after: Position | None = None
    ) -> AsyncIterator[Any]:
        while True:
            page = await self._store.page(kind, order, {}, limit=STEP, after=after, until=until)
            for each in page.items:
                yield each
            if not page.more:
                return
            after = Position(getattr(page.items[-1], by), page.items[-1].id)


async def number(found: AsyncIterator[Any]) -> int:
    """How many there are."""
    count = 0
    async for _ in found:
        count += 1
    return count


async def some_of(found: AsyncIterator[Any], most: int = MOST_CHANGES) -> AsyncIterator[list[Any]]:
    """So many at a time; in between, others have their turn."""
    some: list[Any] = []
    async for each in found:
        some.append(each)
        if len(some) == most:
            yield some
            await asyncio.sleep(0)
            some = []
    if some:
        yield some
