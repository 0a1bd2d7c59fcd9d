"""The backlog: whoever floods waits for themselves; bounds tell when there is room, and keep to it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import time_machine

from built import ANN, ANN_ELSEWHERE, BOB, opened, wanted
from loquent.domain.clock import SECOND, Moment, later, now
from loquent.domain.errors import Limited, LoquentError, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import BACKGROUND, Content, Generation, begin, claimed
from loquent.domain.principals import Principal
from loquent.ports.store import Add, Replace
from loquent.services import metrics
from loquent.services.backlog import Backlog, Bounds
from loquent.services.promises import KEPT
from loquent.wiring import Services

pytestmark = pytest.mark.anyio
CROWD = [Principal("default", f"usr_{number}", f"user {number}") for number in range(20)]
PLENTY = Bounds(10_000, 10_000, 10_000)


async def submit(services: Services, *askers: Principal) -> None:
    """One job of each, in that order."""
    for who in askers:
        await services.generations.submit(who, wanted("x"))


async def take(services: Services, n: int = 1_000) -> list[Generation]:
    """What a worker would take, one after the other."""
    put, add = claimed(later(now(), 3600), "a worker")
    taken = []
    for _ in range(n):
        found = await services.store.take(Generation, "due", {}, until=now(), n=1, put=put, add=add)
        if not found:
            break
        taken += found
    return taken


async def tenants(services: Services, n: int = 1_000) -> str:
    """Whose turn it was, by the first letter: d for default, o for other."""
    return "".join(each.tenant[0] for each in await take(services, n))


async def test_the_first_job_of_a_tenant_goes_before_a_flood_and_the_next_ones_take_turns(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        await submit(services, *[ANN] * 50, *[ANN_ELSEWHERE] * 4)
        assert await tenants(services, 10) == "ododododdd"


async def test_with_places_by_the_clock_the_flood_goes_first(tmp_path: Path) -> None:
    """The negative control."""
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        for who in (*[ANN] * 50, ANN_ELSEWHERE):
            made = begin(
                who, kind="text", surface="api", mode=BACKGROUND, model="echo", parameters={}, text="x", due_at=None
            )
            await services.store.write(Add(made), Add(Content(made.id, 0, made.tenant, made.owner, {}, "")))
        assert await tenants(services) == "d" * 50 + "o"


async def test_callers_of_one_tenant_take_turns_too(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        await submit(services, *[ANN] * 50, *[BOB] * 3)
        owners = [each.owner for each in await take(services, 12)]
    assert BOB.owner in owners[:2]
    assert owners.count(BOB.owner) == 3


async def test_a_crowd_of_one_tenant_has_one_turn_after_the_other(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        await submit(services, *CROWD * 5, *[ANN_ELSEWHERE] * 5)
        order = await tenants(services)
    assert order[0] == "o"
    assert order[:15].count("o") == 5, order


async def test_who_always_has_a_first_job_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        await submit(services, *[ANN] * 30)
        order = ""
        with time_machine.travel(now() / SECOND, tick=False) as clock:
            for _ in range(20):
                await submit(services, ANN_ELSEWHERE)
                order += await tenants(services, 1)
                clock.shift(1)
    assert 8 <= order.count("d") <= 12, order


async def test_a_job_that_has_run_before_is_not_left_behind_the_flood(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        with time_machine.travel(now() / SECOND, tick=False) as clock:
            await submit(services, *[ANN] * 30)
            clock.shift(600)  # it goes on and on, and its places lag behind the clock
            [first] = await take(services, 1)
            await services.store.write(Replace(first, evolve(first, status="pending", due_at=now())))  # handed back
            assert (await services.store.page(Generation, "due", {}, limit=1)).items[0].id != first.id
            await services.worker._hurry()
            assert (await take(services, 1))[0].id == first.id


async def test_places_are_kept_to_by_every_process(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        await submit(services, *[ANN] * 30)
        elsewhere = Backlog(services.store, PLENTY)
        await elsewhere.check(ANN)
        assert elsewhere.place(ANN_ELSEWHERE) < (await first_place(services))
        last = (await services.store.page(Generation, "due", {}, limit=1, back=True)).items[0].due_at
        assert elsewhere.place(ANN) > (last or 0)


async def first_place(services: Services) -> int:
    """Of what waits."""
    return (await services.store.page(Generation, "due", {}, limit=1)).items[0].due_at or 0


async def test_alone_a_job_is_due_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        for _ in range(100):
            begun = await services.generations.submit(ANN, wanted("x"))
            assert begun.generation.due_at is not None
            assert begun.generation.due_at <= now()


# How many may wait

BOUNDS = {"LOQUENT_MAX_PENDING": "20", "LOQUENT_MAX_PENDING_TENANT": "10", "LOQUENT_MAX_PENDING_CALLER": "5"}
REFUSED: Iterable[tuple[list[Principal], Principal, type[LoquentError], str]] = [
    ([ANN] * 5, ANN, Limited, "5 jobs of yours wait already"),
    ([ANN] * 5 + CROWD[:4] + [BOB], BOB, Limited, "10 jobs of your organisation wait already"),
    (
        [Principal(f"tenant {number}", "usr_ann", "ann") for number in range(20)],
        ANN,
        Unavailable,
        "20 jobs wait already",
    ),
]


@pytest.mark.parametrize(("waiting", "who", "kind", "said"), REFUSED)
async def test_one_more_than_may_wait_is_refused_with_the_time_to_come_again(
    tmp_path: Path, waiting: list[Principal], who: Principal, kind: type[LoquentError], said: str
) -> None:
    before = metrics.refused_jobs._value.get()
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="6/minute", **BOUNDS) as services:
        await submit(services, *waiting)
        for _ in range(3):  # and is not counted by the limiter
            with pytest.raises(kind, match=said) as refused:
                await submit(services, who)
            assert refused.value.retry_after > 0  # type: ignore[attr-defined]
        assert await services.store.count(Generation, "all", {}) == len(waiting)
        answer = await services.generations.collect(await services.generations.begin(who, wanted("now")))
        assert answer.now()[0].status == "completed"  # what does not wait is not held up
    assert metrics.refused_jobs._value.get() == before + 3


async def test_the_last_tenth_is_for_those_who_have_little(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, **BOUNDS) as services:
        await submit(services, *[ANN] * 5, *[BOB] * 4)
        with pytest.raises(Limited, match="organisation"):
            await submit(services, BOB)
        await submit(services, CROWD[0])


async def test_where_nobody_works_no_time_is_promised(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off", **BOUNDS) as services:
        with time_machine.travel(now() / SECOND, tick=False) as clock:
            await submit(services, *[ANN] * 5)
            for _ in range(20):  # it is looked at again and again, and nothing is taken
                clock.shift(1)
                with pytest.raises(Limited) as refused:
                    await submit(services, ANN)
                if refused.value.retry_after == 300:
                    break
            clock.shift(301)
            with pytest.raises(Limited, match="5 jobs of yours"):
                await submit(services, ANN)


async def test_waiting_as_long_as_it_says_succeeds(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off", **BOUNDS) as services:
        with time_machine.travel(now() / SECOND, tick=False) as clock:
            await submit(services, *[ANN] * 5, *[BOB] * 4)
            for _ in range(4):  # one job is taken every two seconds, and one more comes at once
                clock.shift(2)
                [taken] = await take(services, 1)
                await submit(services, ANN if taken.owner == ANN.owner else BOB)
            clock.shift(0.3)
            with pytest.raises(Limited) as refused:
                await submit(services, ANN)
            told = refused.value.retry_after
            assert 2 < told < 20
            clock.shift(told - 0.1)
            await take(services, int(told / 2))
            with pytest.raises(Limited) as refused:
                await submit(services, *[BOB] * 9)  # comes beside, and leaves the place that is promised
            assert refused.value.message == "8 jobs of your organisation wait already"
            clock.shift(0.1)
            await submit(services, ANN)
            with pytest.raises(Limited):
                await submit(services, ANN)  # one, and no more


async def test_a_place_that_nobody_takes_up_is_given_to_others(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off", **BOUNDS) as services:
        with time_machine.travel(now() / SECOND, tick=False) as clock:
            await submit(services, *[ANN] * 5, *[BOB] * 4)
            with pytest.raises(Limited) as refused:
                await submit(services, ANN)
            clock.shift(refused.value.retry_after)
            await take(services, 1)
            clock.shift(1)
            with pytest.raises(Limited):
                await submit(services, BOB)
            clock.shift(KEPT)
            await submit(services, BOB)


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_asks_the_bounds_hold_and_so_does_what_was_told(tmp_path: Path, seed: int) -> None:
    """Many callers of some tenants: the impatient ask all the time, the patient when they were told to."""
    chance = random.Random(seed)
    crowd = [Principal(f"tenant {n % 3}", f"usr_{n}", "") for n in range(30)]
    patient, told = crowd[:10], dict[Principal, Moment]()
    kept = [0, 0]  # promises: broken, and kept
    async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off") as services:
        backlog = Backlog(services.store, Bounds(40, 30, 3))

        async def ask(who: Principal) -> None:
            was_told = told.pop(who, None)
            try:
                await backlog.check(who)
            except (Limited, Unavailable) as refused:
                told[who] = later(now(), refused.retry_after or 0)
                kept[0] += was_told is not None and who in patient
                return
            made = begin(
                who, kind="text", surface="api", mode=BACKGROUND, model="echo", parameters={}, text="x",
                due_at=backlog.place(who),
            )  # fmt: skip
            await services.store.write(Add(made), Add(Content(made.id, 0, made.tenant, made.owner, {}, "")))
            backlog.came(who, made.due_at)
            kept[1] += was_told is not None and who in patient

        with time_machine.travel(now() / SECOND, tick=False) as clock:
            for _ in range(600):
                clock.shift(0.05)
                for who in chance.sample(crowd, 8):
                    if who not in patient or told.get(who, 0) <= now():
                        await ask(who)
                await take(services, chance.choice((0, 0, 1)))  # some seven a second, unevenly
                waiting = (await services.store.page(Generation, "due", {}, limit=100)).items
                waiting = [each for each in waiting if each.status == "pending"]
                assert len(waiting) <= 40
                assert max(Counter(each.tenant for each in waiting).values(), default=0) <= 30
                assert max(Counter(each.owner for each in waiting).values(), default=0) <= 3
    assert kept[1] >= 20, kept
    assert kept[0] <= kept[1] / 20, kept
