"""Presets: parameters that a user sets once, for all that they ask on one surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loquent.domain.errors import NotFound, Taken
from loquent.domain.evolve import evolve
from loquent.domain.presets import Preset, preset_id
from loquent.domain.principals import Principal
from loquent.ports.store import Add, Store
from loquent.services.amend import amend
from loquent.services.scope import Scoped


class Presets:
    """What each user has set, by surface."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, who: Principal, surface: str) -> Mapping[str, Any]:
        """The parameters of that user there; none where nothing was set."""
        found = await Scoped(self._store, who).get(Preset, preset_id(who, surface))
        return found[0].parameters if found else {}

    async def put(self, who: Principal, surface: str, parameters: Mapping[str, Any]) -> None:
        """Set all of them anew. Of two at the same time, the later one stands."""
        scoped = Scoped(self._store, who)
        id = preset_id(who, surface)
        try:
            await amend(scoped, Preset, id, lambda known: evolve(known, parameters=parameters))
        except NotFound:
            try:
                await scoped.write(Add(Preset(id, 0, who.tenant, who.owner, surface, parameters)))
            except Taken:
                await amend(scoped, Preset, id, lambda known: evolve(known, parameters=parameters))
