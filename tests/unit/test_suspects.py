"""A job that kills its workers fails after three runs, and takes none of its neighbours with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import time_machine

from built import ANN, opened, wanted
from loquent.domain.clock import SECOND, later, now
from loquent.domain.errors import Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation, claimed, released
from loquent.ports.store import Change, Replace, Store
from loquent.services import metrics
from loquent.services.jobs import Worker
from loquent.services.pace import Pace
from loquent.services.suspects import Suspects
from loquent.wiring import Services

R = TypeVar("R")

pytestmark = pytest.mark.anyio
JOB = "[slow 0.01] [words 10] good"
LEASE = 60.0


class Away:
    """A store that is away for its next so many reads or writes."""

    def __init__(self, store: Store, *, reads: int = 0, writes: int = 0) -> None:
        self._store, self.reads, self.writes, self.tried = store, reads, writes, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, kind: type[R], *ids: str) -> list[R]:
        self.reads -= 1
        if self.reads >= 0:
            raise Unavailable("away")
        return await self._store.get(kind, *ids)

    async def write(self, *changes: Change) -> None:
        self.writes -= 1
        self.tried += 1
        if self.writes >= 0:
            raise Unavailable("away")
        await self._store.write(*changes)


@pytest.fixture
async def services(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Services]:
    """Open, and no job is taken until the test lets the worker begin. A parameter: the seconds of a lease."""
    async with opened(tmp_path, works=False, LOQUENT_LEASE_SECONDS=getattr(request, "param", str(LEASE))) as made:
        yield made


async def due(services: Services, count: int, by: str = "a") -> list[Generation]:
    """So many as a worker takes them."""
    put, add = claimed(later(now(), LEASE), by)
    return await services.store.take(Generation, "due", {}, until=now(), n=count, put=put, add=add)


def first_runs() -> float:
    """How many were counted."""
    return metrics.registry.get_sample_value("loquent_job_wait_seconds_count") or 0


def worker(services: Services, *, store: Any = None, room: Any = None) -> Worker:
    """Another worker of that process."""
    return Worker(
        store or services.store,
        services.runner,
        services.models,
        services.queue,
        slots=4,
        sweep_seconds=0.1,
        room=room,
    )


async def submitted(services: Services, count: int, prompt: str = JOB) -> list[str]:
    """Their ids."""
    return [(await services.generations.submit(ANN, wanted(prompt))).generation.id for _ in range(count)]


async def suspected(services: Services, count: int, prompt: str = JOB, *, times: int = 2) -> list[str]:
    """The ids of so many that have lost so many of their three runs, as when their process is killed each time."""
    ids = await submitted(services, count, prompt)
    for _ in range(times):
        put, add = claimed(later(now(), 0), "ghost")
        await services.store.take(Generation, "due", {}, until=now(), n=count, put=put, add=add)
        await asyncio.sleep(0.001)
    return ids


async def one_waits(services: Services, steady_words: int) -> tuple[str, str]:
    """One that waits for its last run, and one of so many words that runs meanwhile; the worker is open."""
    [suspect] = await suspected(services, 1)
    [steady] = await submitted(services, 1, f"[slow 0.01] [words {steady_words}] x")
    await services.worker.open(alone=False)
    async with asyncio.timeout(10):
        while (await records(services, [suspect]))[0].lease_by is not None or steady not in services.runner.lives:
            await asyncio.sleep(0.005)
    return suspect, steady


def sifting(services: Services, *, writes: int = 0) -> tuple[Suspects, Away]:
    """What tells suspects from others, and its store, which is away for its next so many writes."""
    store = Away(services.store, writes=writes)
    return Suspects(store, Pace(lease=LEASE), "a"), store  # type: ignore[arg-type]


async def records(services: Services, ids: list[str]) -> list[Generation]:
    return await services.store.get(Generation, *ids)


async def all_over(services: Services, ids: list[str], seen: Callable[[], None] = lambda: None) -> list[Generation]:
    """The records once they are over; ``seen`` is called all the while."""
    async with asyncio.timeout(30):
        while True:
            found = await records(services, ids)
            if all(record.is_over for record in found):
                return found
            seen()
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("services", ["5"], indirect=True)
async def test_jobs_on_their_last_run_run_one_at_a_time_with_nothing_beside_them(services: Services) -> None:
    suspects = await suspected(services, 3)
    others = await submitted(services, 9)
    beside: set[str] = set()

    def look() -> None:
        running = set(services.runner.lives)
        if running & set(suspects):
            beside.update(running)
            assert len(running) == 1, "something ran beside a suspect"

    await services.worker.open(alone=False)
    found = await all_over(services, suspects + others, look)
    assert {record.status for record in found} == {"completed"}
    assert [record.attempts for record in found] == [3] * 3 + [1] * 9
    assert beside == set(suspects)


async def test_jobs_that_have_lost_one_run_go_on_side_by_side(services: Services) -> None:
    ids = await suspected(services, 5, "[slow 0.02] [words 20] good", times=1)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, len(services.runner.lives))

    await services.worker.open(alone=False)
    found = await all_over(services, ids, look)
    assert [(record.status, record.attempts) for record in found] == [("completed", 2)] * 5
    assert most == 5


async def test_the_last_run_after_an_engines_faults_is_not_alone(services: Services) -> None:
    """Else all that waits for a busy engine would go one by one when it is back."""
    ids = await submitted(services, 2, "[busy 0.01] x")
    steady = await submitted(services, 1, "[slow 0.01] [words 100] x")
    await services.worker.open(alone=False)
    for record in await all_over(services, ids):
        assert (record.attempts, record.error_code) == (3, "engine_busy")
    [record] = await records(services, steady)
    assert not record.is_over


async def test_a_suspect_that_waits_is_given_back_whole_by_a_stop(services: Services) -> None:
    suspect, _ = await one_waits(services, 1000)
    [waiting] = await records(services, [suspect])
    assert (waiting.status, waiting.attempts) == ("pending", 2)
    assert (waiting.due_at or 0) > later(now(), 30), "no other worker should stand still for it, too"
    await services.drain(0)
    [left] = await records(services, [suspect])
    assert (left.status, left.attempts) == ("pending", 2)
    assert (left.due_at or 0) <= now()


async def test_a_suspect_that_is_cancelled_while_it_waits_is_over(services: Services) -> None:
    suspect, steady = await one_waits(services, 100)
    await services.generations.cancel(ANN, suspect)
    found = await all_over(services, [suspect, steady, *await submitted(services, 1)])
    assert [record.status for record in found] == ["cancelled", "completed", "completed"]


async def test_a_newcomer_waits_for_one_suspect_at_most(services: Services) -> None:
    suspects = await suspected(services, 4)
    await services.worker.open(alone=False)
    async with asyncio.timeout(10):
        while not services.runner.lives:
            await asyncio.sleep(0.002)
    newcomers = await submitted(services, 1)
    found = await all_over(services, suspects + newcomers)
    assert [record.attempts for record in found] == [3] * 4 + [1]
    order = [record.id for record in sorted(found, key=lambda record: record.started_at or 0)]
    assert order.index(newcomers[0]) == 1


async def test_a_suspect_that_waits_longer_than_a_lease_stays_with_its_worker(services: Services) -> None:
    await suspected(services, 2)
    with time_machine.travel(now() / SECOND, tick=False) as clock:
        first, _ = sifting(services)
        assert await first.sift(await due(services, 2), 1) == []
        for _ in range(4):
            clock.shift(LEASE * 0.8)
            await first.keep()
            assert await due(services, 2, "b") == []
        clock.shift(LEASE + 1)  # it is dead
        assert [record.attempts for record in await due(services, 2, "b")] == [3, 3]
        await first.keep()  # it was not
        assert first.room(4, 1) == 3, "it stands still for what others have"


async def test_a_worker_holds_what_waits_at_each_sweep(services: Services) -> None:
    [suspect] = await suspected(services, 1)
    [steady] = await submitted(services, 1, "[slow 0.01] [words 1000] x")
    await services.worker.open(alone=False)
    seen: set[int] = set()
    async with asyncio.timeout(10):
        while len(seen) < 3:
            [record] = await records(services, [suspect])
            if record.status == "pending" and steady in services.runner.lives:
                seen.add(record.due_at or 0)
            await asyncio.sleep(0.01)
    assert record.attempts == 2


async def test_a_last_run_that_could_not_be_given_back_is_still_to_come(services: Services) -> None:
    ids = await suspected(services, 3)
    some, _ = sifting(services, writes=2)
    [alone] = await some.sift(await due(services, 3), 0)
    others = [id for id in ids if id != alone.id]
    assert {record.attempts for record in await records(services, others)} == {3}
    assert await some.claim() == [], "it is the turn of others"
    [taken] = await some.claim()
    [record] = await records(services, [taken.id])
    assert (record, record.status, record.attempts) == (taken, "processing", 3)
    assert record.fence == alone.fence + 1
    [left] = [id for id in others if id != taken.id]
    await some.keep()
    [record] = await records(services, [left])
    assert (record.status, record.attempts) == ("pending", 2)


async def test_a_claim_that_the_store_refuses_leaves_the_suspect_waiting(services: Services) -> None:
    await suspected(services, 1)
    some, away = sifting(services)
    await some.sift(await due(services, 1), 1)
    away.writes = 1
    with pytest.raises(Unavailable):
        await some.claim()
    assert [record.attempts for record in await some.claim()] == [3]


async def test_a_last_run_is_not_spent_on_texts_that_could_not_be_read(services: Services) -> None:
    ids = await suspected(services, 1)
    some = worker(services, store=Away(services.store, reads=1))
    await some.open(alone=False)
    try:
        [record] = await all_over(services, ids)
    finally:
        await some.close()
    assert (record.status, record.attempts) == ("completed", 3)


async def test_a_stop_asks_a_store_that_is_away_once(services: Services) -> None:
    await suspected(services, 3)
    some, away = sifting(services)
    await some.sift(await due(services, 3), 1)
    away.tried, away.writes = 0, 3
    await some.close()
    assert away.tried == 1


async def test_what_was_handed_back_has_no_second_first_run(services: Services) -> None:
    ids = await submitted(services, 1)
    [taken] = await due(services, 1)
    await services.store.write(Replace(taken, evolve(released(taken), due_at=now())))
    before = first_runs()
    await services.worker.open(alone=False)
    [record] = await all_over(services, ids)
    assert (record.attempts, first_runs() - before) == (1, 0)
    await all_over(services, await submitted(services, 1))
    assert first_runs() - before == 1


async def test_on_a_full_disk_rings_are_for_others_and_a_sweep_finds_the_room_there_is_again(
    services: Services,
) -> None:
    ids = await submitted(services, 1)
    room = SimpleNamespace(is_full=True)
    some = worker(services, room=room)
    await some.open(alone=False)
    try:
        await asyncio.sleep(0.15)  # a sweep
        assert not some._has_room.is_set()
        room.is_full = False
        [record] = await all_over(services, ids)
    finally:
        await some.close()
    assert record.status == "completed"
