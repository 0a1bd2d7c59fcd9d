"""Lists by kind and by status, put together from few orders: the same as if each had an order of its own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from built import ANN, BOB, opened
from loquent.domain.evolve import evolve
from loquent.domain.generations import (
    COMPLETED,
    FAILED,
    KINDS,
    PENDING,
    PROCESSING,
    STATUSES,
    Generation,
)
from loquent.ports.store import Page, Position, Replace, Store
from loquent.services.generations import Filters
from loquent.services.lists import count_of, page_of, parts_of
from loquent.services.scope import Scoped
from storing import keep

pytestmark = pytest.mark.anyio
ASKED = [
    {"kind": kind, "status": status, "model": model}
    for kind in (None, "chat", "image")
    for status in (None, COMPLETED, FAILED)
    for model in (None, "echo")
    if model is None or (kind is None and status is None)
]


async def filled(store: Store, many: int) -> list[dict[str, Any]]:
    """As many of the two owners, of kinds and statuses as chance has it; what ANN has, newest first."""
    chance = random.Random(many)
    made: list[dict[str, Any]] = []
    for _ in range(many):
        of = {
            "kind": chance.choice(KINDS),
            "status": chance.choice(STATUSES),
            "model": chance.choice(("echo", "other")),
        }
        who = chance.choice((ANN, ANN, BOB))
        id = await keep(store, who=who, **of)
        if who is ANN:
            made.insert(0, {"id": id, **of})
    return made


async def walked(scoped: Scoped, parts: list[Any], limit: int) -> list[str]:
    """All ids, page by page; each page but the last is full."""
    found: list[str] = []
    while True:
        after = Position(found[-1], found[-1]) if found else None
        page = await page_of(scoped, parts, limit=limit, after=after)
        found += [each.id for each in page.items]
        if not page.more:
            return found
        assert len(page.items) == limit


@pytest.mark.parametrize("asked", ASKED, ids=str)
async def test_a_list_has_all_that_was_asked_for_in_its_order_whatever_the_page(
    tmp_path: Path, asked: dict[str, str | None]
) -> None:
    async with opened(tmp_path) as services:
        made = await filled(services.store, 150)
        wanted = [one["id"] for one in made if all(value in (None, one[name]) for name, value in asked.items())]
        assert wanted, "or nothing would be shown"
        scoped, parts = Scoped(services.store, ANN), parts_of(**asked)
        for limit in (2, 7, len(wanted), 200):
            assert await walked(scoped, parts, limit) == wanted
        assert await count_of(scoped, parts) == len(wanted)


async def test_a_page_by_number_and_the_total_are_of_what_was_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = await filled(services.store, 60)
        wanted = [one["id"] for one in made if one["kind"] == "chat"]
        for page in (1, 2, 3):
            items, total = await services.generations.numbered(ANN, Filters(kind="chat"), page=page, per_page=4)
            assert ([each.id for each in items], total) == (wanted[4 * (page - 1) : 4 * page], len(wanted))


class Moving:
    """A store in which a job goes on by a step each time that a list has been read."""

    def __init__(self, store: Store, id: str, to: list[str]) -> None:
        self._store, self._id, self._to = store, id, to

    async def page(self, *args: Any, **more: Any) -> Page[Any]:
        """See Store."""
        page = await self._store.page(*args, **more)
        if self._to:
            [now] = await self._store.get(Generation, self._id)
            await self._store.write(Replace(now, evolve(now, status=self._to.pop(0))))
        return page


async def test_a_job_that_goes_on_while_the_list_is_read_is_in_it_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        first, job, last = [await keep(services.store, status=status) for status in (FAILED, PENDING, FAILED)]
        moving: Any = Moving(services.store, job, [PROCESSING, COMPLETED])
        parts = [(order, {**at, "tenant": ANN.tenant, "owner": ANN.owner}) for order, at in parts_of(kind="text")]
        page = await page_of(moving, parts, limit=10)
        assert [each.id for each in page.items] == [last, job, first]
        assert page.items[1].status == COMPLETED, "as it was seen last"
        job = await keep(services.store, status=PENDING)
        moving = Moving(services.store, job, [PENDING, PENDING, PENDING, PROCESSING])
        page = await page_of(moving, parts[::-1], limit=10)
        assert job not in [each.id for each in page.items], "read in the other order, it would be missed"
