"""Writes of what runs: each counts only while this run holds the record; a moment's gap of the store is waited for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from loquent.domain import failpoints
from loquent.domain.clock import Moment, later, now
from loquent.domain.errors import Fenced, NotFound, Stale, Taken, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import Content, Generation, held
from loquent.domain.log import Log
from loquent.ports.store import Add, Change, Replace, Store
from loquent.services import metrics
from loquent.services.amend import amend
from loquent.services.live import Live

log = Log("loquent.runner")

WRITE_TRIES = 6  # at most, while somebody waits for it; a job that is over is written while its lease holds
GONE = 5.0  # seconds that the store is away for, after which no answer is begun that could not be kept


class Writes:
    """Puts what runs on the record, and knows since when the store has taken nothing."""

    def __init__(self, store: Store, *, again: float) -> None:
        self._store = store
        self._again = again
        self._away_since: Moment | None = None  # the store, since the last write that it took
        self.hurries = False  # the process stops: nothing is waited for long

    @property
    def is_gone(self) -> bool:
        """Whether the store has taken nothing for a while."""
        return self._away_since is not None and later(self._away_since, GONE) < now()

    async def check(self) -> None:
        """Ask the store that is gone whether it is back. Raises Unavailable where it still is away."""
        await self._store.ready()
        self._away_since = None

    async def put(
        self, live: Live, change: Callable[[Generation], Generation], content: Content, *more: Change
    ) -> bool:
        """Write a change of the record that this run holds, with its texts; again while the store is away.

        False, with nothing written, where this run does not hold it any more.
        """
        attempt = 0
        while True:
            try:
                await self.once(live, change, content, *more)
                self._away_since = None
                return True
            except Fenced as fenced:
                metrics.fenced.inc()
                log.warning("result dropped", generation=live.generation.id, why=fenced.message)
                return False
            except Unavailable:
                self._away_since = self._away_since or now()
                holds = live.is_job and not self.hurries and now() < (live.generation.due_at or 0)
                if (attempt >= WRITE_TRIES - 1 and not holds) or (self.is_gone and not live.is_job):
                    raise
                await asyncio.sleep(self._again * 2 ** min(attempt, 4) * random.uniform(0.5, 1))  # noqa: S311  (jitter)
                attempt += 1

    async def once(
        self, live: Live, change: Callable[[Generation], Generation], content: Content, *more: Change
    ) -> None:
        """The same, tried once. Raises Fenced where this run does not hold it any more."""
        changed = change(live.generation)
        own: list[Change] = [Add(changed), Add(content)]
        if live.saved:
            own = [Replace(live.generation, changed)]
            own += [Replace(live.content, content)] if content is not live.content else []
        try:
            await self._store.write(*own, *more)
        except (Taken, Stale):  # touched by somebody, or by a write of ours that was not heard of
            changed, content = await self._amended(live, change, content, *more)
        live.written(changed, content)

    async def _amended(
        self, live: Live, change: Callable[[Generation], Generation], content: Content, *more: Change
    ) -> tuple[Generation, Content]:
        """Somebody has touched the record: the change still counts where this run still holds it."""
        fence, unfenced = live.generation.fence, failpoints.is_armed(failpoints.UNFENCED)

        def fenced(current: Generation) -> Generation:
            return change(current if unfenced else held(current, fence))

        found = await self._store.get(Content, content.id)
        if not found:
            raise Fenced(f"{content.id} has been removed")
        [current] = await self._store.get(Generation, content.id) or [live.generation]
        wanted = change(live.generation)
        if current.is_over and current.fence == fence and current.status == wanted.status and not unfenced:
            return current, found[0]  # it had happened: this write was told "unknown"
        texts = [Replace(found[0], content)] if content is not live.content else []
        try:
            changed = await amend(self._store, Generation, live.generation.id, fenced, *texts, *more)
        except NotFound as gone:
            raise Fenced(gone.message) from gone
        return evolve(changed, version=changed.version - 1), evolve(content, version=found[0].version)
