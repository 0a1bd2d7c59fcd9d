"""Lists of one's generations by kind, status and model, put together where no order has them.

An order is an index that every generation is written to. Lists by status alone are asked for seldom, so they have none:
such a list is made of those for each kind with that status, which are few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from loquent.domain.generations import KINDS, Generation
from loquent.ports.store import COUNT_CAP, Page, Position
from loquent.services.scope import Scoped

Part = tuple[str, Mapping[str, Any]]
"""A declared order, and what it is asked for."""


def parts_of(*, kind: str | None = None, status: str | None = None, model: str | None = None) -> list[Part]:
    """The parts of which a list consists; no generation is in two. Of the three, the model is asked for alone."""
    if model is not None:
        return [("model", {"model": model})]
    if status is not None:
        kinds = KINDS if kind is None else (kind,)
        return [("kind_status", {"kind": each, "status": status}) for each in kinds]
    return [("newest", {}) if kind is None else ("kind", {"kind": kind})]


async def page_of(
    scoped: Scoped, parts: Sequence[Part], *, limit: int, after: Position | None = None
) -> Page[Generation]:
    """The newest of all the parts behind that position."""
    pages = await asyncio.gather(*(scoped.page(Generation, order, at, limit=limit, after=after) for order, at in parts))
    if len(pages) == 1:
        return pages[0]
    items = sorted(chain.from_iterable(page.items for page in pages), key=lambda each: each.id, reverse=True)
    return Page(items[:limit], more=len(items) > limit or any(page.more for page in pages))


async def count_of(scoped: Scoped, parts: Sequence[Part]) -> int:
    """How many they hold together, counted up to the store's cap."""
    return min(COUNT_CAP, sum(await asyncio.gather(*(scoped.count(Generation, order, at) for order, at in parts))))
