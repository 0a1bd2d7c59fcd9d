"""Lists of one's generations by kind, status and model: few orders are kept, and what they do not list is merged.

An order is an index that every generation is written to, and a list is asked for seldom: so kind and status have one
order together, and a list by one of the two is put together from the few lists for each value of the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from loquent.domain.generations import KINDS, STATUSES, Generation
from loquent.ports.store import Page, Position, Store
from loquent.services.scope import Scoped

Part = tuple[str, Mapping[str, Any]]
"""A declared order, and what it is asked for."""


def parts_of(*, kind: str | None = None, status: str | None = None, model: str | None = None) -> list[Part]:
    """The parts of which a list consists; of the three, the model is asked for alone."""
    if model is not None:
        return [("model", {"model": model})]
    if kind is None and status is None:
        return [("newest", {})]
    kinds, statuses = (kind,) if kind else KINDS, (status,) if status else STATUSES
    return [("kind_status", {"kind": each, "status": one}) for one in statuses for each in kinds]


async def page_of(
    store: Scoped | Store, parts: Sequence[Part], *, limit: int, after: Position | None = None
) -> Page[Generation]:
    """The newest of all the parts behind that position.

    One after the other, in the order in which a generation passes through the statuses: one that goes on while they
    are read is found twice, and not missed.
    """
    pages = [await store.page(Generation, order, at, limit=limit, after=after) for order, at in parts]
    if len(pages) == 1:
        return pages[0]
    found = {each.id: each for page in pages for each in page.items}
    items = [found[id] for id in sorted(found, reverse=True)]
    return Page(items[:limit], more=len(items) > limit or any(page.more for page in pages))


async def count_of(scoped: Scoped, parts: Sequence[Part]) -> int:
    """How many they hold together, each part counted up to the store's cap."""
    return sum(await asyncio.gather(*(scoped.count(Generation, order, at) for order, at in parts)))
