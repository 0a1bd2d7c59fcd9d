"""What monitors are told: of the whole store, of each part, of the loop; and nothing where nothing is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from built import ANN, ROWS, opened, wanted
from loquent.domain.clock import later, now
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation, claimed
from loquent.domain.requests import Parameters
from loquent.ports.store import Replace
from loquent.services.wanted import Begun
from loquent.wiring import Services
from openai_server import openai_server
from redis_server import RedisServer

pytestmark = pytest.mark.anyio
SOON = 20.0  # seconds that a part may take to be missed, or to be found again, on a slow machine
LONG = "[slow 0.02] [words 500] x"


class Figures(dict[tuple[str, ...], float]):
    """The page: values by name and labels."""

    def of(self, name: str, *labels: str) -> float | None:
        return self.get((name, *labels))


async def figures(services: Services) -> Figures:
    services.watch.fresh = 0.0
    families = text_string_to_metric_families((await services.watch.page()).decode())
    return Figures({(each.name, *each.labels.values()): each.value for family in families for each in family.samples})


async def until(services: Services, holds: Callable[[Figures], bool]) -> Figures:
    """The first page on which it is so."""
    async with asyncio.timeout(SOON):
        while not holds(found := await figures(services)):
            await asyncio.sleep(0.05)
    return found


async def submitted(services: Services, prompt: str = "x", **more: object) -> Begun:
    return await services.generations.submit(ANN, wanted(prompt, **more))


async def taken_by_another(services: Services, lease: float) -> Generation:
    put, add = claimed(later(now(), lease), "another")
    [record] = await services.store.take(Generation, "due", {}, until=now(), n=1, put=put, add=add)
    return record


async def test_the_oldest_job_is_that_of_the_store_whichever_process_is_asked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    async with (
        opened(tmp_path, works=False, LOQUENT_STORE=url) as one,
        opened(tmp_path, works=False, LOQUENT_STORE=url) as other,
    ):
        quiet = await figures(other)
        assert (quiet.of("loquent_oldest_pending_seconds"), quiet.of("loquent_unfinished_generations")) == (0, 0)
        await submitted(one)
        await asyncio.sleep(0.3)
        waits = await figures(other)
        assert 0.25 <= (waits.of("loquent_oldest_pending_seconds") or 0) < SOON
        assert waits.of("loquent_unfinished_generations") == 1
        [record] = await one.store.get(Generation, (await submitted(one)).generation.id)
        await one.store.write(Replace(record, evolve(record, due_at=later(now(), -3600))))  # a place before others
        assert (await figures(other)).of("loquent_oldest_pending_seconds") < SOON
        await taken_by_another(one, lease=60)
        await taken_by_another(one, lease=1.5)
        runs = await figures(other)
        assert (runs.of("loquent_oldest_pending_seconds"), runs.of("loquent_unfinished_generations")) == (0, 2)
        await until(other, lambda page: (page.of("loquent_oldest_pending_seconds") or 0) > 0)  # its lease has run out


async def test_who_looks_twice_in_a_moment_asks_the_store_once(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        await services.watch.page()
        await submitted(services)
        assert b"loquent_unfinished_generations 0.0" in await services.watch.page()
        assert (await figures(services)).of("loquent_unfinished_generations") == 1


async def test_of_a_store_that_is_away_no_old_number_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        await submitted(services)
        assert (await figures(services)).of("loquent_part_up", "database") == 1
        await services.store.close()
        page = await figures(services)
        assert (page.of("loquent_part_up", "database"), page.of("loquent_part_up", "blobs")) == (0, 1)
        assert page.of("loquent_oldest_pending_seconds") is page.of("loquent_unfinished_generations") is None
        assert (page.of("loquent_disk_free_bytes", "data") or 0) > 0
        await services.store.open()
        assert (await figures(services)).of("loquent_unfinished_generations") == 1


async def test_runs_are_told_by_what_came_of_them(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        before = await figures(services)
        assert before.of("loquent_job_slots") == 0

        def more(page: Figures, name: str, *labels: str) -> float:
            return (page.of(name, *labels) or 0) - (before.of(name, *labels) or 0)

        await submitted(services)
        await taken_by_another(services, lease=0.05)
        await asyncio.sleep(0.1)
        await services.worker.open(alone=False)
        page = await until(services, lambda page: more(page, "loquent_jobs_total", "completed") == 1)
        assert (more(page, "loquent_lost_leases_total"), page.of("loquent_job_slots")) == (1, 8)
        assert more(page, "loquent_job_wait_seconds_count") == 0  # another began it

        await submitted(services, "[busy 0.05] x")  # put back twice, then failed: no lease was lost
        page = await until(services, lambda page: more(page, "loquent_jobs_total", "failed") == 1)
        assert more(page, "loquent_jobs_total", "retried") == 2
        assert (more(page, "loquent_lost_leases_total"), more(page, "loquent_job_wait_seconds_count")) == (1, 1)

        lost = (await submitted(services, LONG)).generation.id
        await until(services, lambda page: page.of("loquent_job_slots_in_use") == 1)
        [record] = await services.store.get(Generation, lost)
        await services.store.write(Replace(record, evolve(record, fence=record.fence + 1)))  # as another's claim does
        page = await until(services, lambda page: more(page, "loquent_jobs_total", "fenced") == 1)
        assert more(page, "loquent_fenced_writes_total") == 1
        assert more(page, "loquent_jobs_total", "completed") == 1  # a result that was dropped is none

        await submitted(services, LONG)
        await until(services, lambda page: page.of("loquent_job_slots_in_use") == 1)
        await services.drain(5)
        assert more(await figures(services), "loquent_jobs_total", "released") == 1


async def test_a_loop_that_is_held_up_is_told_of(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:

        async def late() -> float:
            page = await figures(services)
            name = "loquent_loop_lag_seconds"
            return (page.of(f"{name}_count") or 0) - (page.of(f"{name}_bucket", "0.5") or 0)

        before = await late()
        await asyncio.sleep(0.1)
        time.sleep(1)  # noqa: ASYNC251  (what no code of ours may do)
        async with asyncio.timeout(SOON):
            while await late() == before:
                await asyncio.sleep(0.05)


async def test_a_limiter_that_counts_for_itself_is_told_of_until_it_does_not(
    tmp_path: Path, redis: RedisServer
) -> None:
    async with opened(tmp_path, works=False, LOQUENT_LIMITER=redis.url) as services:
        assert (await figures(services)).of("loquent_part_up", "limiter") == 1
        redis.kill()
        await submitted(services)
        assert (await figures(services)).of("loquent_part_up", "limiter") == 0
        redis.start()
        await until(services, lambda page: page.of("loquent_part_up", "limiter") == 1)


async def test_a_broker_that_is_away_is_told_of_by_health_and_metrics_though_nothing_is_rung(
    tmp_path: Path, redis: RedisServer
) -> None:
    redis.kill()
    async with opened(tmp_path, works=False, LOQUENT_QUEUE=redis.url) as services:
        assert (await figures(services)).of("loquent_part_up", "queue") == 0
        told = {check.name: check for check in await services.health.checks()}
        assert not told["queue"].healthy
        assert "the broker does not answer: " in told["queue"].detail
        assert await services.health.ready()  # jobs are taken and done without it
        redis.start()
        await until(services, lambda page: page.of("loquent_part_up", "queue") == 1)
        redis.kill()
        await submitted(services)
        page = await until(services, lambda page: page.of("loquent_part_up", "queue") == 0)
        assert page.of("loquent_rings_lost_total") == 0
        redis.start()
        await until(services, lambda page: page.of("loquent_rings_waiting") == 0)


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_what_the_cache_finds_is_told_by_its_level(tmp_path: Path, redis: RedisServer, kind: str) -> None:
    async with opened(tmp_path, LOQUENT_CACHE="memory:" if kind == "memory" else redis.url) as services:

        async def ask() -> None:
            begun = await services.generations.submit(ANN, wanted("x", parameters=Parameters(temperature=0)))
            async with asyncio.timeout(SOON):
                while not (await services.store.get(Generation, begun.generation.id))[0].is_over:
                    await asyncio.sleep(0.01)

        await ask()
        assert (await figures(services)).of("loquent_cache_hits_total", "memory") == 0
        await ask()
        page = await figures(services)
        assert page.of("loquent_cache_hits_total", "memory") == 1
        assert (page.of("loquent_cache_memory_bytes") or 0) > 100
        if kind == "redis":
            await asyncio.sleep(1.1)  # what lies in memory before it is believed for a second
            await ask()
        assert (await figures(services)).of("loquent_cache_hits_total", "redis") == (1 if kind == "redis" else None)


async def test_connections_to_engines_and_to_the_database_are_told(tmp_path: Path) -> None:
    key, rows = tmp_path / "key", tmp_path / "far.toml"
    key.write_text("sk-secret")
    key.chmod(0o600)
    with openai_server("sk-secret") as url:
        rows.write_text(
            f'{ROWS}\n[[model]]\nname = "far"\nengine = "openai"\nid = "echo"\nurl = "{url}/v1"\n'
            f'key_file = "{key}"\nconcurrency = 3\nprice = {{output = 100000}}\n'
        )
        more = {"LOQUENT_MODELS": str(rows), "LOQUENT_STORE": f"sqlite:///{tmp_path / 'a.db'}"}
        async with opened(tmp_path, **more) as services:
            before = await figures(services)
            await submitted(services, "[slow 0.1] [words 10] x", model="far")
            page = await until(services, lambda page: page.of("loquent_engine_connections", "far", "busy") == 1)
            assert (page.of("loquent_engine_slots", "far"), page.of("loquent_engine_slots_in_use", "far")) == (3, 1)
            assert page.of("loquent_engine_slots", "echo") is None  # it takes as many as there are
            page = await until(services, lambda page: page.of("loquent_unfinished_generations") == 0)
            assert page.of("loquent_engine_connections", "far", "idle") == 1
            assert (page.of("loquent_store_connections"), page.of("loquent_store_waiting_calls", "reads")) == (2, 0)
            cost = [each.of("loquent_cost_total", "far") or 0 for each in (before, page)]
            assert cost[1] - cost[0] == pytest.approx(1)  # ten words at a tenth each
