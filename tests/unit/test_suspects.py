"""A job that kills its workers fails after three runs, and takes none of its neighbours with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from built import ANN, opened, wanted
from loquent.domain.clock import later, now
from loquent.domain.generations import Generation, claimed
from loquent.wiring import Services

pytestmark = pytest.mark.anyio
JOB = "[slow 0.01] [words 10] good"


async def submitted(services: Services, count: int, prompt: str = JOB) -> list[str]:
    """Their ids."""
    return [(await services.generations.submit(ANN, wanted(prompt))).generation.id for _ in range(count)]


async def died(services: Services, count: int, times: int) -> None:
    """So many due jobs lose so many runs, as when their process is killed each time."""
    for _ in range(times):
        put, add = claimed(later(now(), 0), "ghost")
        await services.store.take(Generation, "due", {}, until=now(), n=count, put=put, add=add)
        await asyncio.sleep(0.001)


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


async def test_jobs_on_their_last_run_run_one_at_a_time_with_nothing_beside_them(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LEASE_SECONDS="5") as services:
        suspects = await submitted(services, 3)
        await died(services, 3, times=2)
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


async def test_jobs_that_have_lost_one_run_go_on_side_by_side(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        ids = await submitted(services, 5, "[slow 0.02] [words 20] good")
        await died(services, 5, times=1)
        most = 0

        def look() -> None:
            nonlocal most
            most = max(most, len(services.runner.lives))

        await services.worker.open(alone=False)
        found = await all_over(services, ids, look)
    assert [(record.status, record.attempts) for record in found] == [("completed", 2)] * 5
    assert most == 5


async def test_the_last_run_after_an_engines_faults_is_not_alone(tmp_path: Path) -> None:
    """Else all that waits for a busy engine would go one by one when it is back."""
    async with opened(tmp_path, works=False) as services:
        ids = await submitted(services, 2, "[busy 0.01] x")
        steady = await submitted(services, 1, "[slow 0.01] [words 100] x")
        await services.worker.open(alone=False)
        for record in await all_over(services, ids):
            assert (record.attempts, record.error_code) == (3, "engine_busy")
        [record] = await records(services, steady)
        assert not record.is_over


async def test_a_suspect_that_waits_is_given_back_whole_by_a_stop(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        [suspect] = await submitted(services, 1)
        await died(services, 1, times=2)
        [steady] = await submitted(services, 1, "[slow 0.01] [words 1000] x")
        await services.worker.open(alone=False)
        async with asyncio.timeout(10):
            while (await records(services, [suspect]))[0].lease_by is not None or steady not in services.runner.lives:
                await asyncio.sleep(0.005)
        [waiting] = await records(services, [suspect])
        assert (waiting.status, waiting.attempts) == ("pending", 2)
        assert (waiting.due_at or 0) > later(now(), 30), "no other worker should stand still for it, too"
        await services.drain(0)
        [left] = await records(services, [suspect])
        assert (left.status, left.attempts) == ("pending", 2)
        assert (left.due_at or 0) <= now()


async def test_a_suspect_that_is_cancelled_while_it_waits_is_over(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        [suspect] = await submitted(services, 1)
        await died(services, 1, times=2)
        [steady] = await submitted(services, 1, "[slow 0.01] [words 100] x")
        await services.worker.open(alone=False)
        async with asyncio.timeout(10):
            while (await records(services, [suspect]))[0].lease_by is not None or steady not in services.runner.lives:
                await asyncio.sleep(0.005)
        await services.generations.cancel(ANN, suspect)
        found = await all_over(services, [suspect, steady, *await submitted(services, 1)])
    assert [record.status for record in found] == ["cancelled", "completed", "completed"]
