"""Celery as the queue, with a broker that dies, freezes, forgets and comes back: jobs go on, nobody waits."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from brokers import Broker
from built import ANN, opened, wanted
from loquent.domain.generations import Generation
from loquent.queues.celery import Celery
from loquent.queues.celery_publisher import Ring, ring_of
from loquent.wiring import Services
from redis_server import redis_server

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


async def until(said: Any, seconds: float = 20) -> None:
    """Return as soon as it is so."""
    async with asyncio.timeout(seconds):
        while not said():
            await asyncio.sleep(0.02)


async def test_jobs_are_taken_by_messages_after_the_broker_was_frozen_and_emptied(
    tmp_path: Path, broker: Broker
) -> None:
    """Nobody looks by himself here for ten minutes: what is taken up was rung for. Kills: see the journey."""
    settings = {"LOQUENT_QUEUE": broker.url, "LOQUENT_SWEEP_SECONDS": "600", "LOQUENT_LIMIT_GENERATIONS": "off"}
    async with opened(tmp_path, **settings) as services:
        await done(services, ids := await submitted(services, 3))
        broker.freeze()
        ids += await submitted(services, 3)
        await asyncio.sleep(2)
        broker.thaw()
        await done(services, ids := ids + await submitted(services, 3))
        # all that was rung for has been sent and heard: who is emptied while a consumer comes in is another story
        await until(lambda: not services.queue.figures()["rings_waiting"] and not broker.waiting())
        broker.empty()
        ids += await submitted(services, 3)
        async with asyncio.timeout(20):  # what was rung for between may be lost: the next ring finds it
            while {each.status for each in await services.store.get(Generation, *ids)} != {"completed"}:
                ids += await submitted(services)
                await asyncio.sleep(0.2)
        await until(lambda: broker.waiting() == 0)
        await services.queue.ring(*ids)  # again, and late
        await done(services, ids := ids + await submitted(services, 3))
        assert {each.attempts for each in await services.store.get(Generation, *ids)} == {1}


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
            await until(lambda: len(server.rings()) == 3)
            names = {each.name for each in set(threading.enumerate()) - before}
            sent = server.rings()
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
        await until(lambda: len(server.rings()) == 1)
        [message] = server.rings()
        assert (message["id"], message["expires"]) == ("gen_1", heard.until)
        await queue.close()


async def test_a_ring_that_nobody_needs_any_more_is_not_sent(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        queue = Celery(server.url)
        await queue.open()
        await asyncio.to_thread(queue.hear, Ring("gen_old", datetime.now(UTC).isoformat()))
        await queue.ring("gen_new")
        await until(lambda: [each["id"] for each in server.rings()] == ["gen_new"])
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
        assert [each["id"] for each in server.rings()][2:] == [begun.generation.id]


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
