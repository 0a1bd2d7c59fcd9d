"""The contract of every store; it never names one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any, TypeVar

import pytest

from loquent.domain import ids
from loquent.domain.clock import Moment
from loquent.domain.errors import Invalid, Stale, Taken, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import BACKGROUND, CANCELLED, PENDING, PROCESSING, Content, Generation, begin
from loquent.domain.idempotency import Repeat
from loquent.domain.principals import Principal
from loquent.domain.records import RECORDS
from loquent.domain.usage import UsageDay
from loquent.domain.users import User
from loquent.ports.store import MOST_CHANGES, Add, Bump, Position, Remove, Replace, Store
from loquent.stores import Keeper

from .stores import Place

pytestmark = pytest.mark.anyio

R = TypeVar("R")

OWN = {"tenant": "t", "owner": "a"}
TEXTS = {**OWN, "kind": "text"}


def generation(owner: str = "a", **fields: Any) -> Generation:
    who = Principal("t", owner, owner)
    made = begin(
        who, kind="text", surface="api", mode=BACKGROUND, model="m", parameters={}, text="hello", due_at=Moment(1_000)
    )
    return evolve(made, **fields)


def content(id: str, **fields: Any) -> Content:
    return evolve(Content(id, 0, "t", "a", {"prompt": "p"}, "out"), **fields)


def user(name: str, email: str | None = None, **fields: Any) -> User:
    return evolve(User(ids.new("usr"), 0, "t", name, email, "hash", True, Moment(5)), **fields)


def repeat(id: str, expires_at: int) -> Repeat:
    return Repeat(id, 0, "t", "a", "fingerprint", "gen_1", Moment(expires_at))


def usage(id: str, day: str = "2026-11-22", **counters: int) -> UsageDay:
    return evolve(UsageDay(id, "t", "a", day, "m"), **counters)


async def add(store: Store, *records: R) -> list[R]:
    """Add these, each on its own; as they then stand."""
    await asyncio.gather(*(store.write(Add(record)) for record in records))
    return [evolve(record, version=1) for record in records]  # type: ignore[type-var]  # a dataclass


async def only(store: Store, kind: type[R], id: str) -> R:
    [found] = await store.get(kind, id)
    return found


async def walk(store: Store, kind: type[R], order: str, by: str, *, limit: int, back: bool, **rest: Any) -> list[Any]:
    """All of an order, page by page; each page in the order's own direction."""
    walked: list[Any] = []
    after = None
    while True:
        page = await store.page(kind, order, rest.get("at", {}), limit=limit, after=after, back=back)
        walked = [*page.items, *walked] if back else [*walked, *page.items]
        if not page.more:
            return walked
        assert len(page.items) == limit
        edge: Any = page.items[0 if back else -1]
        after = Position(getattr(edge, by), edge.id)


# --- what is written is read


async def test_what_is_added_comes_back_whole(store: Keeper) -> None:
    odd = 'a "quoted" \\u0000 text,\n\ttabs, ünïcödé, 日本語, 🙂, \x7f'
    first = generation(
        parameters={"stop": ["a", "b"], "nested": {"n": 1.5, "none": None, "yes": True}, odd: odd},
        input_preview=odd,
        cancel_requested=True,
        prompt_tokens=2**62,
        cost=-(2**63),
    )
    await store.write(Add(first), Add(content(first.id, output=odd)))
    assert await only(store, Generation, first.id) == evolve(first, version=1)
    assert await only(store, Content, first.id) == content(first.id, output=odd, version=1)


async def test_a_value_is_of_its_declared_type_when_it_comes_back(store: Keeper) -> None:
    first = generation()
    await store.write(Add(first))
    found = await only(store, Generation, first.id)
    for name in RECORDS[Generation].names:
        assert type(getattr(found, name)) is type(getattr(first, name)), name


async def test_what_is_stored_is_a_copy(store: Keeper) -> None:
    parameters: dict[str, Any] = {"stop": ["a"]}
    [first] = await add(store, generation(parameters=parameters))
    parameters["stop"].append("b")
    found = await only(store, Generation, first.id)
    assert found.parameters == {"stop": ["a"]}


async def test_get_keeps_the_order_asked_and_leaves_out_what_is_absent(store: Keeper) -> None:
    records = await add(store, *(generation() for _ in range(150)))
    random.shuffle(records)
    asked = [part for record in records for part in (record.id, f"{record.id}x")]
    assert await store.get(Generation, *asked) == records
    assert await store.get(Generation, "gen_none") == []
    assert await store.get(Generation) == []
    assert await store.get(Content, records[0].id) == []


async def test_a_new_record_has_version_one_whatever_it_says(store: Keeper) -> None:
    first = generation(version=7)
    await store.write(Add(first))
    assert (await only(store, Generation, first.id)).version == 1


async def test_replace_raises_the_version_by_one(store: Keeper) -> None:
    [first] = await add(store, generation())
    await store.write(Replace(first, evolve(first, status=CANCELLED, due_at=None, version=99)))
    assert await only(store, Generation, first.id) == evolve(first, status=CANCELLED, due_at=None, version=2)


async def test_replace_by_the_same_raises_the_version_too(store: Keeper) -> None:
    [first] = await add(store, generation())
    await store.write(Replace(first, first))
    assert await only(store, Generation, first.id) == evolve(first, version=2)


async def test_what_has_changed_since_is_stale(store: Keeper) -> None:
    [first] = await add(store, generation())
    await store.write(Replace(first, evolve(first, status=PROCESSING)))
    with pytest.raises(Stale):
        await store.write(Replace(first, evolve(first, status=CANCELLED)))
    with pytest.raises(Stale):
        await store.write(Remove(first))
    assert (await only(store, Generation, first.id)).status == PROCESSING


async def test_what_is_gone_is_stale(store: Keeper) -> None:
    [first] = await add(store, generation())
    await store.write(Remove(first))
    assert await store.get(Generation, first.id) == []
    with pytest.raises(Stale):
        await store.write(Remove(first))
    with pytest.raises(Stale):
        await store.write(Replace(first, first))
    assert await store.count(Generation, "newest", OWN) == 0


async def test_one_of_many_that_replace_at_once_goes_through(store: Keeper) -> None:
    [first] = await add(store, generation())
    tries = [store.write(Replace(first, evolve(first, lease_by=str(n)))) for n in range(32)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == sorted(["NoneType", *["Stale"] * 31])
    winner = outcomes.index(None)
    assert await only(store, Generation, first.id) == evolve(first, lease_by=str(winner), version=2)


# --- unique keys


async def test_an_id_is_taken_once(store: Keeper) -> None:
    [first] = await add(store, generation())
    with pytest.raises(Taken) as refused:
        await store.write(Add(evolve(first, status=CANCELLED)))
    assert refused.value.key == "id"
    assert await only(store, Generation, first.id) == first


async def test_a_unique_key_is_found_and_taken_once(store: Keeper) -> None:
    [ann] = await add(store, user("ann", "ann@example.org"))
    assert await store.find(User, "username", {"tenant": "t", "username": "ann"}) == ann
    assert await store.find(User, "email", {"tenant": "t", "email": "ann@example.org"}) == ann
    assert await store.find(User, "username", {"tenant": "u", "username": "ann"}) is None
    assert await store.find(User, "username", {"tenant": "t", "username": "Ann"}) is None
    with pytest.raises(Taken) as refused:
        await store.write(Add(user("ann")))
    assert refused.value.key == "username"
    with pytest.raises(Taken) as refused:
        await store.write(Add(user("bea", "ann@example.org")))
    assert refused.value.key == "email"
    await store.write(Add(user("ann", "ann@example.org", tenant="u")))
    assert await store.count(User, "newest", {"tenant": "t"}) == 1


async def test_none_in_a_unique_key_is_not_unique(store: Keeper) -> None:
    await add(store, user("ann"), user("bea"), user("cid"))
    assert await store.find(User, "email", {"tenant": "t", "email": None}) is None
    assert await store.count(User, "newest", {"tenant": "t"}) == 3


async def test_a_unique_key_moves_with_its_record(store: Keeper) -> None:
    [ann, bea] = await add(store, user("ann", "ann@example.org"), user("bea"))
    with pytest.raises(Taken) as refused:
        await store.write(Replace(bea, evolve(bea, username="ann")))
    assert refused.value.key == "username"
    await store.write(Replace(ann, evolve(ann, username="eve", email=None)))
    await store.write(Replace(bea, evolve(bea, username="ann", email="ann@example.org")))
    assert await store.find(User, "username", {"tenant": "t", "username": "ann"}) == await only(store, User, bea.id)
    eve = await only(store, User, ann.id)
    assert await store.find(User, "username", {"tenant": "t", "username": "eve"}) == eve
    await store.write(Remove(eve))
    assert await store.find(User, "username", {"tenant": "t", "username": "eve"}) is None
    await store.write(Add(user("eve")))


async def test_a_key_that_a_write_frees_can_be_taken_later_in_it(store: Keeper) -> None:
    [ann, bea] = await add(store, user("ann"), user("bea"))
    with pytest.raises(Taken):
        await store.write(Add(user("ann")), Remove(ann))
    await store.write(Remove(ann), Replace(bea, evolve(bea, username="ann")), Add(user("bea")))
    found = await store.find(User, "username", {"tenant": "t", "username": "ann"})
    assert found is not None and found.id == bea.id
    assert await store.count(User, "newest", {"tenant": "t"}) == 2


async def test_one_of_many_that_want_a_key_at_once_gets_it(store: Keeper) -> None:
    wanting = [user("ann") for _ in range(32)]
    outcomes = await asyncio.gather(*(store.write(Add(one)) for one in wanting), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == sorted(["NoneType", *["Taken"] * 31])
    found = await store.find(User, "username", {"tenant": "t", "username": "ann"})
    assert found == evolve(wanting[outcomes.index(None)], version=1)
    assert await store.count(User, "all", {}) == 1


# --- several changes in one write


async def test_a_write_with_a_taken_key_leaves_nothing(store: Keeper) -> None:
    [ann] = await add(store, user("ann"))
    first = generation()
    changes = (Bump(usage("day"), {"cost": 5}), Add(first), Add(content(first.id)), Add(user("ann")))
    for order in (changes, changes[::-1]):
        with pytest.raises(Taken) as refused:
            await store.write(*order)
        assert refused.value.key == "username"
    assert await store.get(Generation, first.id) == []
    assert await store.get(Content, first.id) == []
    assert await store.get(UsageDay, "day") == []
    assert await store.count(Generation, "newest", OWN) == 0
    assert await only(store, User, ann.id) == ann


async def test_a_stale_write_leaves_nothing(store: Keeper) -> None:
    [first, second] = await add(store, generation(), generation())
    await store.write(Replace(first, evolve(first, status=PROCESSING)))
    await store.write(Bump(usage("day"), {"cost": 1}))
    with pytest.raises(Stale):
        await store.write(
            Bump(usage("day"), {"cost": 5}),
            Replace(second, evolve(second, status=CANCELLED)),
            Add(content(first.id)),
            Replace(first, evolve(first, status=CANCELLED)),
        )
    assert await only(store, Generation, second.id) == second
    assert await store.get(Content, first.id) == []
    assert (await only(store, UsageDay, "day")).cost == 1


async def test_a_refused_write_does_not_touch_those_beside_it(store: Keeper) -> None:
    await add(store, user("ann"))
    good = [generation() for _ in range(40)]
    bad = [generation() for _ in range(40)]
    writes = [store.write(Add(one), Add(content(one.id)), Bump(usage("day"), {"generations": 1})) for one in good]
    writes += [store.write(Bump(usage("day"), {"generations": 1}), Add(one), Add(user("ann"))) for one in bad]
    random.shuffle(writes)
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType"] * 40 + ["Taken"] * 40
    assert len(await store.get(Generation, *(one.id for one in good))) == 40
    assert await store.get(Generation, *(one.id for one in bad)) == []
    assert (await only(store, UsageDay, "day")).generations == 40


async def test_twenty_changes_are_one_write_and_more_are_refused(store: Keeper) -> None:
    many = [generation() for _ in range(MOST_CHANGES)]
    await store.write(*(Add(one) for one in many))
    assert await store.count(Generation, "newest", OWN) == MOST_CHANGES
    with pytest.raises(Invalid):
        await store.write(*(Add(generation()) for _ in range(MOST_CHANGES + 1)))
    assert await store.count(Generation, "newest", OWN) == MOST_CHANGES


async def test_a_record_is_changed_once_in_a_write(store: Keeper) -> None:
    [first] = await add(store, generation())
    with pytest.raises(Invalid):
        await store.write(Replace(first, evolve(first, status=PROCESSING)), Remove(first))
    with pytest.raises(Invalid):
        await store.write(Bump(usage("day"), {"cost": 1}), Bump(usage("day"), {"cost": 1}))
    assert await only(store, Generation, first.id) == first


async def test_a_write_of_nothing_does_nothing(store: Keeper) -> None:
    await store.write()


async def test_a_cancelled_write_happened_or_did_not(store: Keeper) -> None:
    records = [generation() for _ in range(60)]
    tasks = [asyncio.create_task(store.write(Add(one), Add(content(one.id)))) for one in records]
    for at, task in enumerate(tasks):
        await asyncio.sleep(0.001 * (at % 3))
        if at % 2:
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    await store.write(Add(generation()))
    for one, outcome in zip(records, outcomes, strict=True):
        halves = len(await store.get(Generation, one.id)) + len(await store.get(Content, one.id))
        assert halves == 2 if outcome is None else halves in (0, 2)
        assert outcome is None or isinstance(outcome, asyncio.CancelledError)


# --- counters


async def test_a_bump_makes_the_record_and_then_adds_to_it(store: Keeper) -> None:
    await store.write(Bump(usage("day", cost=100), {"cost": 5, "generations": 1}))
    assert await only(store, UsageDay, "day") == usage("day", cost=105, generations=1)
    await store.write(Bump(usage("day", day="2000-01-01", cost=100), {"cost": -2}))
    assert await only(store, UsageDay, "day") == usage("day", cost=103, generations=1)
    assert [day.id for day in (await store.page(UsageDay, "days", OWN, limit=5)).items] == ["day"]


async def test_bumps_at_once_add_up(store: Keeper) -> None:
    await asyncio.gather(*(store.write(Bump(usage("day"), {"cost": n, "generations": 1})) for n in range(64)))
    assert await only(store, UsageDay, "day") == usage("day", cost=sum(range(64)), generations=64)


async def test_bumps_at_once_make_the_record_with_its_values_once(store: Keeper) -> None:
    await asyncio.gather(*(store.write(Bump(usage("day", cost=100), {"cost": 1})) for _ in range(20)))
    assert await only(store, UsageDay, "day") == usage("day", cost=120)


async def test_bumps_of_other_counters_at_once_add_up(store: Keeper) -> None:
    by = [{"cost": 1}, {"generations": 2}, {"generations": 3, "cost": 4}, {"cost": -5, "generations": 0}]
    await asyncio.gather(*(store.write(Bump(usage(f"day{n % 2}"), by[n % 4])) for n in range(40)))
    assert await store.get(UsageDay, "day0", "day1") == [
        usage("day0", cost=50, generations=30),
        usage("day1", cost=-50, generations=20),
    ]


async def test_a_counted_record_is_removed_by_its_id(store: Keeper) -> None:
    await store.write(Bump(usage("day"), {"cost": 1}))
    read = await only(store, UsageDay, "day")
    await store.write(Bump(usage("day"), {"cost": 1}))
    await store.write(Remove(read))
    assert await store.get(UsageDay, "day") == []
    with pytest.raises(Stale):
        await store.write(Remove(read))


# --- pages


async def some_repeats(store: Store) -> list[Repeat]:
    """Twelve records in the order of `expiring`, with ties."""
    records = [repeat(f"rep_{n:02}", 100 + n // 4) for n in range(12)]
    shuffled = random.sample(records, len(records))
    await add(store, *shuffled)
    return [evolve(record, version=1) for record in records]


@pytest.mark.parametrize("limit", [1, 3, 4, 12, 50])
@pytest.mark.parametrize("back", [False, True])
async def test_pages_join_to_the_whole_in_both_directions(store: Keeper, limit: int, back: bool) -> None:
    expected = await some_repeats(store)
    assert await walk(store, Repeat, "expiring", "expires_at", limit=limit, back=back) == expected


@pytest.mark.parametrize("limit", [1, 3, 10])
@pytest.mark.parametrize("back", [False, True])
async def test_a_descending_order_is_walked_with_ties_in_both_directions(store: Keeper, limit: int, back: bool) -> None:
    days = [usage(f"use_{n}", day=f"2026-11-{20 + n // 3}") for n in range(10)]
    await asyncio.gather(*(store.write(Bump(day, {"cost": 1})) for day in days))
    expected = [evolve(day, cost=1) for day in days[::-1]]
    assert await walk(store, UsageDay, "days", "day", limit=limit, back=back, at=OWN) == expected


@pytest.mark.parametrize("back", [False, True])
async def test_an_order_by_id_is_walked_in_both_directions(store: Keeper, back: bool) -> None:
    made = await add(store, *(generation() for _ in range(7)))
    assert await walk(store, Generation, "all", "id", limit=2, back=back) == made
    assert await walk(store, Generation, "newest", "id", limit=2, back=back, at=OWN) == made[::-1]


async def test_a_page_before_a_position_is_the_one_just_before_it(store: Keeper) -> None:
    expected = await some_repeats(store)
    place = Position(101, "rep_06")
    page = await store.page(Repeat, "expiring", {}, limit=2, after=place, back=True)
    assert (page.items, page.more) == (expected[4:6], True)
    page = await store.page(Repeat, "expiring", {}, limit=6, after=place, back=True)
    assert (page.items, page.more) == (expected[:6], False)


async def test_a_position_need_not_exist(store: Keeper) -> None:
    expected = await some_repeats(store)
    page = await store.page(Repeat, "expiring", {}, limit=2, after=Position(101, "rep_05x"))
    assert page.items == expected[6:8]
    page = await store.page(Repeat, "expiring", {}, limit=2, after=Position(100, "zzz"))
    assert page.items == expected[4:6]
    page = await store.page(Repeat, "expiring", {}, limit=2, after=Position(999, ""))
    assert (page.items, page.more) == ([], False)
    page = await store.page(Repeat, "expiring", {}, limit=2, after=Position(-5, ""), back=True)
    assert (page.items, page.more) == ([], False)


async def test_until_is_an_upper_bound_that_is_in(store: Keeper) -> None:
    expected = await some_repeats(store)
    page = await store.page(Repeat, "expiring", {}, limit=20, until=101)
    assert (page.items, page.more) == (expected[:8], False)
    page = await store.page(Repeat, "expiring", {}, limit=20, until=101, after=Position(101, "rep_05"))
    assert page.items == expected[6:8]
    page = await store.page(Repeat, "expiring", {}, limit=3, until=101, back=True)
    assert (page.items, page.more) == (expected[5:8], True)
    assert (await store.page(Repeat, "expiring", {}, limit=20, until=99)).items == []


async def test_until_bounds_a_descending_order_too(store: Keeper) -> None:
    days = [usage(f"use_{n}", day=f"2026-11-{10 + n}") for n in range(5)]
    await asyncio.gather(*(store.write(Bump(day, {"cost": 1})) for day in days))
    page = await store.page(UsageDay, "days", OWN, limit=2, until="2026-11-12")
    assert ([day.id for day in page.items], page.more) == (["use_2", "use_1"], True)


async def test_numbers_sort_as_numbers_and_text_by_code_point(store: Keeper) -> None:
    values = [-(2**63), -1_000_000, -20, -1, 0, 1, 9, 10, 100, 2**62, 2**63 - 1]
    await add(store, *(repeat(f"rep_{n:02}", value) for n, value in enumerate(random.sample(values, len(values)))))
    page = await store.page(Repeat, "expiring", {}, limit=20)
    assert [record.expires_at for record in page.items] == values
    names = ["B", "Z", "a", "a b", "a!", "ab", "z", "é", "ÿ", "\u0151", "日", "\uffee", "🙂"]
    await add(store, *(repeat(name, 0) for name in names))
    page = await store.page(Repeat, "all", {}, limit=50, after=Position("A", "A"))
    assert [record.id for record in page.items if record.expires_at == 0 and record.id in names] == sorted(names)


async def test_none_in_the_sorted_field_is_not_listed(store: Keeper) -> None:
    [due, over] = await add(store, generation(due_at=Moment(5)), generation(due_at=None))
    assert (await store.page(Generation, "due", {}, limit=5)).items == [due]
    assert await store.count(Generation, "due", {}) == 1
    await store.write(Replace(due, evolve(due, due_at=None)))
    await store.write(Replace(over, evolve(over, due_at=Moment(7))))
    assert [one.id for one in (await store.page(Generation, "due", {}, limit=5)).items] == [over.id]
    assert len((await store.page(Generation, "newest", OWN, limit=5)).items) == 2


async def test_a_page_holds_what_equals_and_nothing_else(store: Keeper) -> None:
    mine, other, foreign = generation(), generation(owner="ab"), generation(tenant="t/a", owner="")
    chat = generation(kind="chat")
    await add(store, mine, other, foreign, chat)
    found = await store.page(Generation, "newest", OWN, limit=10)
    assert [one.id for one in found.items] == [chat.id, mine.id]
    found = await store.page(Generation, "kind_status", {**OWN, "kind": "chat", "status": PENDING}, limit=10)
    assert [one.id for one in found.items] == [chat.id]
    found = await store.page(Generation, "kind_status", {**OWN, "kind": "chat", "status": PROCESSING}, limit=10)
    assert found.items == []
    assert (await store.page(Generation, "newest", {"tenant": None, "owner": "a"}, limit=10)).items == []


async def test_a_record_moves_between_lists_when_it_changes(store: Keeper) -> None:
    [first] = await add(store, generation())
    await store.write(Replace(first, evolve(first, status=PROCESSING)))
    assert await store.count(Generation, "kind_status", {**TEXTS, "status": PENDING}) == 0
    assert await store.count(Generation, "kind_status", {**TEXTS, "status": PROCESSING}) == 1
    await store.write(Remove(await only(store, Generation, first.id)))
    assert await store.count(Generation, "kind_status", {**TEXTS, "status": PROCESSING}) == 0


async def test_a_count_is_capped(store: Keeper) -> None:
    await add(store, *(generation() for _ in range(30)))
    assert await store.count(Generation, "newest", OWN) == 30
    assert await store.count(Generation, "newest", OWN, cap=30) == 30
    assert await store.count(Generation, "newest", OWN, cap=7) == 7
    assert await store.count(Generation, "newest", {"tenant": "t", "owner": "b"}) == 0


# --- long texts


async def test_six_megabytes_come_back_whole(store: Keeper) -> None:
    chosen = random.Random(7)
    text = "".join(chosen.choices("abcdefghijklmnopqrstuvwxyz 日本語🙂\n", k=470_000)) * 10
    assert len(text.encode()) > 6_000_000
    [first] = await add(store, content("gen_long", input={"text": text}, output=text[:1_000_000]))
    assert await only(store, Content, "gen_long") == first
    second = evolve(first, output=text, version=2)
    await store.write(Replace(first, second))
    assert await only(store, Content, "gen_long") == second
    await store.write(Remove(second))
    assert await store.get(Content, "gen_long") == []


# --- what cannot be kept is refused

HALF = "a\ud800b"


@pytest.mark.parametrize("bad", ["a\0b", HALF], ids=["nul", "surrogate"])
async def test_text_that_cannot_be_kept_is_refused_before_anything_is_written(store: Keeper, bad: str) -> None:
    [first] = await add(store, generation())
    day = Bump(usage("day"), {"cost": 1})
    tries: Iterable[Any] = (
        Add(generation(model=bad)),
        Add(generation(input_preview=bad)),
        Add(generation(parameters={"stop": [{"deep": bad}]})),
        Add(generation(parameters={bad: 1})),
        Add(content("gen_bad", output=bad)),
        Add(content("gen_bad", input={"prompt": bad})),
        Add(content(bad)),
        Replace(first, evolve(first, error_message=bad)),
        Bump(usage(bad), {"cost": 1}),
    )
    for change in tries:
        with pytest.raises(Invalid):
            await store.write(day, change)
    assert await store.get(UsageDay, "day") == []
    assert await only(store, Generation, first.id) == first
    for ask in (
        store.get(Generation, bad),
        store.get(Generation, first.id, bad),
        store.find(User, "username", {"tenant": "t", "username": bad}),
        store.page(Generation, "newest", {"tenant": "t", "owner": bad}, limit=1),
        store.page(Generation, "newest", OWN, limit=1, after=Position(bad, bad)),
        store.count(Generation, "newest", {"tenant": "t", "owner": bad}),
        store.take(Generation, "due", {}, until=Moment(5_000), n=1, put={"lease_by": bad, "due_at": None}, add={}),
    ):
        with pytest.raises(Invalid):
            await ask


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**40])
async def test_a_number_of_more_than_63_bits_is_refused(store: Keeper, number: int) -> None:
    for change in (Add(generation(cost=number)), Bump(usage("day", cost=number), {"cost": 1})):
        with pytest.raises(Invalid):
            await store.write(Bump(usage("other"), {"cost": 1}), change)
    with pytest.raises(Invalid):
        await store.write(Bump(usage("day"), {"cost": number}))
    with pytest.raises(Invalid):
        await store.page(Repeat, "expiring", {}, limit=1, until=number)
    assert await store.get(UsageDay, "other", "day") == []


async def test_text_that_is_looked_for_is_bounded(store: Keeper) -> None:
    await store.write(Add(user("n" * 500)))
    assert await store.find(User, "username", {"tenant": "t", "username": "n" * 500}) is not None
    for change in (Add(user("n" * 501)), Add(user("日" * 167)), Add(generation(id="g" * 501))):
        with pytest.raises(Invalid):
            await store.write(change)
    assert await store.find(User, "username", {"tenant": "t", "username": "n" * 5000}) is None


async def test_what_is_not_declared_is_a_fault_of_the_program(store: Keeper) -> None:
    [first] = await add(store, generation())
    for ask in (
        store.page(Generation, "colour", {}, limit=1),
        store.page(Generation, "newest", {"tenant": "t"}, limit=1),
        store.page(Generation, "newest", {**OWN, "status": PENDING}, limit=1),
        store.count(Generation, "due", OWN),
        store.find(User, "password_hash", {"password_hash": "hash"}),
        store.get(Principal, "a"),
        store.page(Generation, "newest", {"tenant": "t", "owner": ["a"]}, limit=1),
        store.page(Repeat, "expiring", {}, limit=1, until={}),
        store.write(Bump(first, {"attempts": 1})),
        store.write(Bump(usage("day"), {"day": 1})),
        store.write(Replace(usage("day"), usage("day"))),
        store.write(Replace(first, generation())),
        store.take(Generation, "due", {}, until=Moment(1), n=1, put={"id": "x"}, add={}),
    ):
        with pytest.raises(TypeError):
            await ask


# --- taking what is due

LEASE = {"status": PROCESSING, "due_at": Moment(9_000), "lease_by": "w"}
ONCE = {"attempts": 1, "fence": 1}


async def test_take_gives_the_first_that_are_due_as_they_now_are(store: Keeper) -> None:
    records = [generation(due_at=Moment(due)) for due in (50, 40, 30, 20, 10)]
    await add(store, *records, generation(due_at=None))
    taken = await store.take(Generation, "due", {}, until=Moment(40), n=2, put=LEASE, add=ONCE)
    expected = [evolve(record, version=2, attempts=1, fence=1, **LEASE) for record in (records[3], records[4])]
    assert sorted(taken, key=lambda one: one.id) == expected
    assert await store.get(Generation, records[3].id, records[4].id) == expected
    taken = await store.take(Generation, "due", {}, until=Moment(40), n=10, put=LEASE, add=ONCE)
    assert {one.id for one in taken} == {records[1].id, records[2].id}
    assert await store.take(Generation, "due", {}, until=Moment(40), n=10, put=LEASE, add=ONCE) == []
    assert await store.count(Generation, "kind_status", {**TEXTS, "status": PROCESSING}) == 4


async def test_what_was_read_before_a_take_is_stale(store: Keeper) -> None:
    [first] = await add(store, generation())
    await store.take(Generation, "due", {}, until=Moment(5_000), n=1, put=LEASE, add=ONCE)
    with pytest.raises(Stale):
        await store.write(Replace(first, evolve(first, status=CANCELLED)))


async def test_a_take_can_put_none(store: Keeper) -> None:
    [first] = await add(store, generation())
    [taken] = await store.take(
        Generation, "due", {}, until=Moment(5_000), n=1, put={"due_at": None, "parameters": {"a": 1}}, add={}
    )
    assert taken == evolve(first, due_at=None, parameters={"a": 1}, version=2)
    assert await store.count(Generation, "due", {}) == 0


async def test_takers_at_once_never_get_the_same(place: Place) -> None:
    opened = [await place.open()]
    if place.backend.keeps:
        opened.append(await place.open())  # as another process would
    made = await add(opened[0], *(generation(due_at=Moment(n % 7)) for n in range(64)))
    taken: list[str] = []

    async def taker(n: int) -> None:
        store, put = opened[n % len(opened)], {**LEASE, "lease_by": f"w{n}"}
        nothing = 0
        while nothing < 2:
            some = await store.take(Generation, "due", {}, until=Moment(100), n=2, put=put, add=ONCE)
            assert all(one.lease_by == f"w{n}" and one.fence == 1 for one in some)
            taken.extend(one.id for one in some)
            nothing = 0 if some else nothing + 1

    await asyncio.gather(*(taker(n) for n in range(32)))
    for store in opened:
        await store.close()
    assert len(taken) == len(set(taken))
    assert set(taken) == {one.id for one in made}


# --- opening and closing


async def test_many_callers_at_once_are_all_served(store: Keeper) -> None:
    records = [generation() for _ in range(300)]

    async def round_trip(record: Generation) -> None:
        await store.write(Add(record), Bump(usage("day"), {"generations": 1}))
        assert await only(store, Generation, record.id) == evolve(record, version=1)

    await asyncio.gather(*(round_trip(record) for record in records))
    assert await store.count(Generation, "newest", OWN) == 300
    assert (await only(store, UsageDay, "day")).generations == 300


async def test_a_closed_store_is_unavailable_and_opens_again(store: Keeper) -> None:
    await store.ready()
    await store.close()
    await store.close()
    for ask in (store.ready(), store.get(User, "x"), store.write(Add(user("ann"))), store.count(User, "all", {})):
        with pytest.raises(Unavailable):
            await ask
    await store.open()
    await store.ready()
    await store.write(Add(user("ann")))


async def test_closing_finishes_what_is_under_way(store: Keeper) -> None:
    await add(store, generation())
    tasks = [asyncio.create_task(store.write(Add(generation()))) for _ in range(20)]
    await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert all(outcome is None or isinstance(outcome, Unavailable) for outcome in outcomes)
    await store.open()
    assert await store.count(Generation, "newest", OWN) >= outcomes.count(None)


async def test_what_was_written_is_there_after_a_restart(place: Place) -> None:
    if not place.backend.keeps:
        pytest.skip("this store declares that it keeps nothing")
    store = await place.open()
    [ann] = await add(store, user("ann", "ann@example.org"))
    await store.write(Bump(usage("day"), {"cost": 3}))
    await store.close()
    again = await place.open()
    try:
        assert await only(again, User, ann.id) == ann
        assert (await only(again, UsageDay, "day")).cost == 3
        with pytest.raises(Taken):
            await again.write(Add(user("ann")))
        checked = await again.check()
        assert (checked.current, checked.findings) == (checked.head, ())
    finally:
        await again.close()


@pytest.mark.parametrize("first", range(3))
async def test_a_stale_change_leaves_nothing_of_what_was_written_with_it(store: Keeper, first: int) -> None:
    [old] = await add(store, generation())
    read = await only(store, Generation, old.id)
    await store.write(Replace(read, evolve(read, cost=1)))
    fresh, counter = generation(), usage(f"use_{ids.new('x')}")
    changes = [Replace(read, evolve(read, cost=2)), Add(fresh), Bump(counter, {"generations": 1})]
    with pytest.raises(Stale):
        await store.write(*changes[first:], *changes[:first])
    assert await store.get(Generation, fresh.id) == []
    assert await store.get(UsageDay, counter.id) == []
