"""Celery as the queue, with a broker that dies, freezes, forgets and comes back: jobs go on, nobody waits."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from built import ANN, opened, wanted
from loquent.domain.generations import Generation
from loquent.queues.celery import Celery
from loquent.queues.celery_publisher import Ring, ring_of
from loquent.wiring import Services
from redis_server import RedisServer, redis_server

pytestmark = pytest.mark.anyio
QUICK = 1.0  # seconds that a POST may take whatever the broker does; milliseconds are usual


async def submitted(services: Services, count: int = 1) -> list[str]:
    """So many jobs, each accepted at once."""
    ids = []
    for number in range(count):
        began = time.monotonic()
        begun = await services.generations.submit(ANN, wanted(f"job {number}"))
        assert time.monotonic() - began < QUICK
        ids.append(begun.generation.id)
    return ids


async def done(services: Services, ids: list[str], seconds: float = 20) -> None:
    """Return when all are completed."""
    async with asyncio.timeout(seconds):
        while {each.status for each in await services.store.get(Generation, *ids)} != {"completed"}:
            await asyncio.sleep(0.02)


def messages(server: RedisServer) -> list[dict[str, Any]]:
    """What lies at the broker, oldest first."""
    with redis.Redis.from_url(server.url) as client:
        return [json.loads(each) for each in reversed(client.lrange("loquent", 0, -1))]


async def until(said: Any, seconds: float = 20) -> None:
    """Return as soon as it is so."""
    async with asyncio.timeout(seconds):
        while not said():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("fault", ["killed", "frozen", "emptied"])
async def test_jobs_are_taken_by_messages_before_and_after_a_fault_without_a_restart(
    tmp_path: Path, fault: str
) -> None:
    """Nobody looks by himself here for ten minutes: what is taken up was rung for."""
    with redis_server(tmp_path) as server:
        async with opened(tmp_path, LOQUENT_QUEUE=server.url, LOQUENT_SWEEP_SECONDS="600") as services:
            await done(services, await submitted(services, 3))
            if fault == "killed":
                server.kill()
            elif fault == "frozen":
                server.freeze()
            else:
                with redis.Redis.from_url(server.url) as client:
                    client.flushall()
            during = await submitted(services, 3)
            await asyncio.sleep(2)
            if fault == "killed":
                server.start()
            elif fault == "frozen":
                server.thaw()
            await done(services, [*during, *await submitted(services, 3)])
            await until(lambda: not messages(server))
            await done(services, await submitted(services, 3))


async def test_a_broker_that_is_away_from_the_start_keeps_nobody_from_work(tmp_path: Path, free_port: int) -> None:
    url = f"redis://127.0.0.1:{free_port}/0"
    async with opened(tmp_path, LOQUENT_QUEUE=url, LOQUENT_SWEEP_SECONDS="600") as services:
        await done(services, await submitted(services, 5))
        began = time.monotonic()
    assert time.monotonic() - began < 15


async def test_a_process_that_only_publishes_sends_one_message_a_job_that_expires(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        before = set(threading.enumerate())
        async with opened(tmp_path, works=False, LOQUENT_QUEUE=server.url) as services:
            ids = await submitted(services, 3)
            await until(lambda: len(messages(server)) == 3)
            names = {each.name for each in set(threading.enumerate()) - before}
            sent = [each["headers"] for each in messages(server)]
    assert [each["id"] for each in sent] == ids
    left = datetime.fromisoformat(sent[0]["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=30) < left <= timedelta(seconds=60)
    assert (sent[0]["lang"], sent[0]["ignore_result"]) == ("py", True)
    assert "rings" in names
    assert "consumer" not in names


async def test_a_worker_whose_hands_are_full_passes_a_ring_on(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        queue = Celery(server.url)
        await queue.open()
        heard = ring_of("gen_1")
        await asyncio.to_thread(queue.hear, heard)
        await until(lambda: len(messages(server)) == 1)
        [message] = messages(server)
        assert (message["headers"]["id"], message["headers"]["expires"]) == ("gen_1", heard.until)
        await queue.close()


async def test_a_ring_that_nobody_needs_any_more_is_not_sent(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        queue = Celery(server.url)
        await queue.open()
        await asyncio.to_thread(queue.hear, Ring("gen_old", datetime.now(UTC).isoformat()))
        await queue.ring("gen_new")
        await until(lambda: [each["headers"]["id"] for each in messages(server)] == ["gen_new"])
        await queue.close()


async def test_a_job_that_is_handed_back_is_rung_for(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with opened(tmp_path, works=False, LOQUENT_QUEUE=server.url) as services:
            services.queue.is_fed = True  # type: ignore[attr-defined]  # so that the messages stay where they can be seen
            await services.worker.open(alone=False)
            [id] = await submitted(services)
            begun = await services.generations.submit(ANN, wanted("[slow 0.1] [words 500] x"))
            await until(lambda: begun.generation.id in services.runner.lives)
            await done(services, [id])
            await services.drain(5)
        assert [each["headers"]["id"] for each in messages(server)][2:] == [begun.generation.id]


async def test_while_a_broker_is_frozen_a_stop_takes_seconds(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with opened(tmp_path, LOQUENT_QUEUE=server.url) as services:
            await done(services, await submitted(services))
            server.freeze()
            await submitted(services)
            began = time.monotonic()
        assert time.monotonic() - began < 15
        server.thaw()
        await until(lambda: "consumer" not in {each.name for each in threading.enumerate()})
