"""Health: which parts answer, asked of all at once and with a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loquent.domain.errors import LoquentError, NotInstalled
from loquent.ports.blobs import Blobs
from loquent.ports.store import Store
from loquent.services.models import Models

SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """What one part said."""

    name: str
    healthy: bool
    detail: str


class Health:
    """Asks the store, the place for files and every model's engine."""

    def __init__(self, store: Store, blobs: Blobs, models: Models) -> None:
        self._store = store
        self._blobs = blobs
        self._models = models

    async def ready(self) -> bool:
        """Whether requests can be taken: the store answers. A model that loads is waited for, not refused."""
        return (await _check("database", self._store.ready)).healthy

    async def checks(self) -> list[Check]:
        """Every part."""
        used = self._models.used
        engines = [
            _check(f"model:{name}", offer.engine.ready, may_be_absent=name not in used)
            for name, offer in self._models.offers.items()
        ]
        places = [_check("database", self._store.ready), _check("blobs", self._blobs.ready)]
        return list(await asyncio.gather(*places, *engines))


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
