"""Lists by kind and by status, put together from few orders: the same as if each had an order of its own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from built import ANN, BOB, opened
from loquent.domain.generations import (
    COMPLETED,
    FAILED,
    KINDS,
    STATUSES,
)
from loquent.ports.store import COUNT_CAP, Position, Store
from loquent.services.history import Filters
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


async def test_a_total_is_capped_as_a_count_is() -> None:
    class Many:
        async def count(self, *_: object) -> int:
            return COUNT_CAP - 1

    many: Any = Many()
    assert await count_of(many, parts_of(kind="text", status=COMPLETED)) == COUNT_CAP - 1
    assert await count_of(many, parts_of(status=COMPLETED)) == COUNT_CAP
