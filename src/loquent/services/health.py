"""Health: which parts answer, asked of all at once and with a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loquent.domain.errors import LoquentError, NotInstalled
from loquent.ports.blobs import Blobs
from loquent.ports.limiter import Limiter
from loquent.ports.queue import Queue
from loquent.ports.store import Store
from loquent.services.breaker import OPEN
from loquent.services.kept import Kept
from loquent.services.models import Models, Offer
from loquent.services.room import Room

SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """What one part said."""

    name: str
    healthy: bool
    detail: str


class Health:
    """Asks the store, the place for files, the limiter, the queue, the disk, the cache and every model's engine."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        limiter: Limiter,
        queue: Queue,
        models: Models,
        kept: Kept | None,
        room: Room,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._limiter = limiter
        self._queue = queue
        self._models = models
        self._kept = kept
        self.is_leaving = False  # it serves, but soon will not: balancers are to look elsewhere
        self._room = room

    async def ready(self) -> bool:
        """Whether requests can be taken: the store answers. A model that loads is waited for, not refused."""
        return not self.is_leaving and (await _check("database", self._store.ready)).healthy

    async def parts(self) -> list[Check]:
        """Every part but the engines: what all processes share, where there are several."""
        asked = [_check("database", self._store.ready), _check("blobs", self._blobs.ready)]
        asked += [_check("limiter", self._limiter.ready), _check("queue", self._queue.ready)]
        asked.append(_check("disk", self._room.ready))
        if self._kept is not None:
            asked.append(_check("cache", self._kept.ready))
        return await asyncio.gather(*asked)

    async def checks(self) -> list[Check]:
        """Every part."""
        used = self._models.used
        ways = self._models.ways()
        engines = [_model(way, may_be_absent=way.model.name not in used) for way in ways]
        parts, others = await asyncio.gather(self.parts(), asyncio.gather(*engines))
        checks = [*parts, *others]
        for place, way in enumerate(ways, len(parts)):
            if way.model.users:  # anybody may look here, and its name is not for everybody
                is_healthy = checks[place].healthy
                checks[place] = Check(f"model:#{place}", is_healthy, "ok" if is_healthy else "it does not answer")
        return checks


async def _model(way: Offer, *, may_be_absent: bool) -> Check:
    """An engine that is left alone is not asked here either."""
    name = f"model:{way.label}"
    if way.breaker.state == OPEN:
        again = max(1, round(way.breaker.wait()))
        return Check(name, healthy=False, detail=f"it failed too often and is left alone for {again} seconds")
    return await _check(name, way.engine.ready, may_be_absent=may_be_absent)


async def _check(name: str, ask: Callable[[], Awaitable[None]], *, may_be_absent: bool = False) -> Check:
    """``may_be_absent``: an offer that nobody has fetched is no fault, as long as nothing is answered by it."""
    try:
        async with asyncio.timeout(SECONDS):
            await ask()
    except NotInstalled as error:
        return Check(name, healthy=may_be_absent, detail=error.message)
    except LoquentError as error:
        return Check(name, healthy=False, detail=error.message)
    except TimeoutError:
        return Check(name, healthy=False, detail=f"no answer in {SECONDS:g} seconds")
    return Check(name, healthy=True, detail="ok")
