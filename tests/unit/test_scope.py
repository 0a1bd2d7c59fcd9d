"""Scoped: what is not one's own is not there. Amend: nobody's change is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loquent.domain import ids
from loquent.domain.clock import Moment
from loquent.domain.errors import Fenced, NotFound, Stale, Taken
from loquent.domain.evolve import evolve
from loquent.domain.generations import BACKGROUND, CANCELLED, Content, Generation, begin, cancelled
from loquent.domain.principals import Principal
from loquent.domain.records import OWN, RECORDS, Order, Spec
from loquent.domain.usage import UsageDay, usage_day
from loquent.domain.users import User
from loquent.ports.store import Add, Bump, Change, Remove, Replace, Store
from loquent.services.amend import TRIES, amend
from loquent.services.scope import Scoped
from loquent.stores import connect

pytestmark = pytest.mark.anyio

ANN, BOB, EVE = Principal("t", "ann", "Ann"), Principal("t", "bob", "Bob"), Principal("u", "ann", "Eve")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = connect("memory:", data_dir=tmp_path)
    await opened.open()
    yield opened
    await opened.close()


def generation(who: Principal, **fields: Any) -> Generation:
    made = begin(who, kind="text", surface="api", mode=BACKGROUND, model="m", parameters={}, text="x", due_at=None)
    return evolve(made, **fields)


def content(record: Generation) -> Content:
    return Content(record.id, 0, record.tenant, record.owner, {}, "")


def user(tenant: str, name: str) -> User:
    return User(ids.new("usr"), 0, tenant, name, None, "hash", True, Moment(1))


async def added(store: Store, record: Any) -> Any:
    await store.write(Add(record))
    return evolve(record, version=1)


# --- Scoped: reading


@pytest.mark.parametrize("other", [BOB, EVE], ids=["another owner", "another tenant"])
async def test_anothers_record_is_absent(store: Store, other: Principal) -> None:
    hers = await added(store, generation(ANN))
    theirs = await added(store, generation(other))
    mine = Scoped(store, ANN)
    assert await mine.get(Generation, hers.id, theirs.id) == [hers]
    assert (await mine.page(Generation, "newest", limit=10)).items == [hers]
    assert await mine.count(Generation, "newest") == 1


async def test_a_scope_that_is_passed_is_overridden(store: Store) -> None:
    hers = await added(store, generation(ANN))
    await added(store, generation(BOB))
    at = {"tenant": "t", "owner": "bob"}
    assert (await Scoped(store, ANN).page(Generation, "newest", at, limit=10)).items == [hers]
    assert await Scoped(store, ANN).count(Generation, "newest", at) == 1


async def test_a_key_is_looked_for_within_the_scope(store: Store) -> None:
    ann = await added(store, user("t", "ann"))
    await added(store, user("u", "ann"))
    assert await Scoped(store, ANN).find(User, "username", {"username": "ann"}) == ann
    assert await Scoped(store, ANN).find(User, "username", {"username": "ann", "tenant": "u"}) == ann
    assert await Scoped(store, BOB).get(User, ann.id) == [ann]
    assert await Scoped(store, EVE).get(User, ann.id) == []


@pytest.mark.parametrize("order", ["due", "all", "colour"])
async def test_an_order_across_owners_is_refused(store: Store, order: str) -> None:
    with pytest.raises(TypeError):
        await Scoped(store, ANN).page(Generation, order, limit=1)
    with pytest.raises(TypeError):
        await Scoped(store, ANN).count(Generation, order)


async def test_a_key_that_is_not_declared_is_refused(store: Store) -> None:
    with pytest.raises(TypeError):
        await Scoped(store, ANN).find(User, "colour", {})


async def test_every_order_and_key_across_owners_is_refused_whatever_is_declared(tmp_path: Path) -> None:
    asked = Scoped(connect("memory:", data_dir=tmp_path), ANN)  # not open: refused before the store is asked
    for spec in RECORDS.values():
        scope = OWN if spec.scope == "owner" else ("tenant",)
        for name, order in spec.orders.items():
            if order.within[: len(scope)] != scope:
                with pytest.raises(TypeError):
                    await asked.page(spec.type, name, dict.fromkeys(order.within, "x"), limit=1)
        for name, key in spec.unique.items():
            if key[: len(scope)] != scope:
                with pytest.raises(TypeError):
                    await asked.find(spec.type, name, dict.fromkeys(key, "x"))


def test_workers_verb_is_not_offered() -> None:
    assert not hasattr(Scoped, "take")


# --- Scoped: writing


async def test_what_is_added_is_ones_own_whatever_it_says(store: Store) -> None:
    theirs = generation(BOB)
    await Scoped(store, ANN).write(Add(theirs), Add(content(theirs)))
    assert await Scoped(store, BOB).get(Generation, theirs.id) == []
    [mine] = await Scoped(store, ANN).get(Generation, theirs.id)
    assert (mine.tenant, mine.owner) == ("t", "ann")
    assert len(await Scoped(store, ANN).get(Content, theirs.id)) == 1


async def test_a_record_is_not_given_away(store: Store) -> None:
    hers = await added(store, generation(ANN))
    await Scoped(store, ANN).write(Replace(hers, evolve(hers, owner="bob", tenant="u", model="n")))
    [mine] = await store.get(Generation, hers.id)
    assert mine == evolve(hers, model="n", version=2)


@pytest.mark.parametrize("other", [BOB, EVE], ids=["another owner", "another tenant"])
async def test_changing_anothers_is_not_found_and_changes_nothing(store: Store, other: Principal) -> None:
    theirs = await added(store, generation(other))
    day = usage_day(other.tenant, other.owner, "m", Moment(0))
    await store.write(Bump(day, {"cost": 1}))
    fresh = generation(ANN)
    disguised = evolve(day, tenant=ANN.tenant, owner=ANN.owner)
    changes: list[Change] = [
        Replace(theirs, evolve(theirs, model="n", tenant=ANN.tenant, owner=ANN.owner)),
        Remove(theirs),
        Bump(day, {"cost": 1}),
        Bump(disguised, {"cost": 1}),
        Remove(disguised),
    ]
    for change in changes:
        with pytest.raises(NotFound):
            await Scoped(store, ANN).write(Add(fresh), change)
    assert await store.get(Generation, theirs.id, fresh.id) == [theirs]
    assert [one.cost for one in await store.get(UsageDay, day.id)] == [1]


async def test_ones_own_is_changed(store: Store) -> None:
    hers = await added(store, generation(ANN))
    day = usage_day(ANN.tenant, ANN.owner, "m", Moment(0))
    mine = Scoped(store, ANN)
    await mine.write(Bump(day, {"cost": 2}))
    await mine.write(Bump(day, {"cost": 2}), Replace(hers, evolve(hers, model="n")))
    assert [one.cost for one in await mine.get(UsageDay, day.id)] == [4]
    [hers] = await mine.get(Generation, hers.id)
    await mine.write(Remove(hers), Remove(day))
    assert await mine.get(Generation, hers.id) == []
    assert await mine.get(UsageDay, day.id) == []


# --- amend


async def test_amend_writes_what_the_function_makes(store: Store) -> None:
    hers = await added(store, generation(ANN))
    amended = await amend(Scoped(store, ANN), Generation, hers.id, cancelled)
    assert amended.status == CANCELLED
    assert await store.get(Generation, hers.id) == [amended]


async def test_amend_writes_more_with_it(store: Store) -> None:
    hers = await added(store, generation(ANN))
    day = usage_day(ANN.tenant, ANN.owner, "m", Moment(0))

    def seen(old: Generation, new: Generation) -> list[Change]:
        assert (old, new.status) == (hers, CANCELLED)
        return [Add(content(new))]

    await amend(store, Generation, hers.id, cancelled, Bump(day, {"cost": 1}), seen)
    assert len(await store.get(Content, hers.id)) == len(await store.get(UsageDay, day.id)) == 1


async def test_amend_of_what_is_not_there_or_anothers_is_not_found(store: Store) -> None:
    theirs = await added(store, generation(BOB))
    with pytest.raises(NotFound):
        await amend(store, Generation, "gen_none", cancelled)
    with pytest.raises(NotFound):
        await amend(Scoped(store, ANN), Generation, theirs.id, cancelled)
    assert await store.get(Generation, theirs.id) == [theirs]


async def test_amend_by_the_same_object_writes_nothing_at_all(store: Store) -> None:
    hers = await added(store, generation(ANN))
    same = await amend(store, Generation, hers.id, lambda old: old, Add(content(hers)))
    assert same == hers
    assert await store.get(Generation, hers.id) == [hers]
    assert await store.get(Content, hers.id) == []


async def test_what_the_function_raises_goes_through(store: Store) -> None:
    hers = await added(store, generation(ANN))

    def refuse(old: Generation) -> Generation:
        raise Fenced("no longer yours")

    with pytest.raises(Fenced):
        await amend(store, Generation, hers.id, refuse)
    assert await store.get(Generation, hers.id) == [hers]


async def test_amends_at_once_lose_nothing(store: Store) -> None:
    hers = await added(store, generation(ANN))
    raised = [
        amend(store, Generation, hers.id, lambda old: evolve(old, attempts=old.attempts + 1)) for _ in range(TRIES)
    ]
    await asyncio.gather(*raised)
    [now] = await store.get(Generation, hers.id)
    assert (now.attempts, now.version) == (TRIES, TRIES + 1)


async def test_amend_gives_up_where_it_is_stale_for_ever(store: Store) -> None:
    hers = await added(store, generation(ANN))
    other = await added(store, generation(ANN))
    await store.write(Replace(other, evolve(other, model="n")))
    with pytest.raises(Stale):
        await amend(store, Generation, hers.id, cancelled, Remove(other))
    assert await store.get(Generation, hers.id) == [hers]


async def test_a_taken_key_beside_an_amend_goes_through(store: Store) -> None:
    hers = await added(store, generation(ANN))
    await added(store, user("t", "ann"))
    with pytest.raises(Taken):
        await amend(store, Generation, hers.id, cancelled, Add(user("t", "ann")))
    assert await store.get(Generation, hers.id) == [hers]


# --- the declaration checks itself


@pytest.mark.parametrize(
    "declared",
    [
        {"unique": {"colour": ("tenant", "colour")}},
        {"orders": {"newest": Order(("tenant",), "colour")}},
        {"orders": {"longest": Order(("tenant",), "password_hash")}, "long": ("password_hash",)},
        {"unique": {"hash": ("password_hash",)}, "long": ("password_hash",)},
        {"counters": ("created_at",)},
        {"scope": "owner"},
    ],
)
def test_a_declaration_that_cannot_be_kept_is_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Spec(**{"type": User, "table": "users", "scope": "tenant", **declared})


def test_tables_have_names_of_their_own() -> None:
    names = [spec.table for spec in RECORDS.values()]
    assert len(names) == len(set(names))
