"""The contract of queues, asked of every backend: a ring is heard, soon; nothing else is promised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from brokers import EACH, Broker
from loquent import queues
from loquent.domain.errors import Misconfigured
from loquent.ports.queue import Queue

pytestmark = pytest.mark.anyio
SOON = 10.0  # seconds in which a ring is heard on a slow machine; a second or two is usual for the first


@pytest.fixture(params=["local", *EACH])
def server(request: pytest.FixtureRequest) -> Broker | None:
    """What the queue speaks to, without a message; None: nothing."""
    if request.param == "local":
        return None
    found: Broker = request.getfixturevalue(request.param)
    found.empty()
    return found


@pytest.fixture
def url(server: Broker | None) -> str:
    return server.url if server else "local:"


@pytest.fixture
async def queue(url: str) -> AsyncIterator[Queue]:
    opened = queues.connect(url)
    await opened.open()
    yield opened
    await opened.close()


async def waited(queue: Queue, seconds: float) -> float:
    """How long it was."""
    began = time.monotonic()
    await queue.wait(seconds)
    return time.monotonic() - began


async def test_who_waits_hears_a_ring(queue: Queue) -> None:
    waiting = asyncio.create_task(waited(queue, 3 * SOON))
    await asyncio.sleep(0.05)
    await queue.ring("gen_1")
    assert await waiting < SOON


async def test_a_ring_while_nobody_waits_is_heard_by_the_next_who_does(queue: Queue) -> None:
    await queue.ring("gen_1", "gen_2")
    assert await waited(queue, 3 * SOON) < SOON


async def test_without_a_ring_the_wait_ends_by_itself(queue: Queue) -> None:
    waits = [await waited(queue, 0.2)]
    while waits[-1] < 0.1 and len(waits) < 2_000:  # a broker may still give back what was rung for before
        waits.append(await waited(queue, 0.2))
    assert 0.1 < waits[-1] < 10


async def test_a_thousand_rings_hold_nobody_up(queue: Queue, server: Broker | None) -> None:
    if server:
        server.freeze()  # who waited for it would wait a second for each
    try:
        began = time.monotonic()
        for number in range(1_000):
            await queue.ring(f"gen_{number}")
        assert time.monotonic() - began < SOON
    finally:
        if server:
            server.thaw()
    assert await waited(queue, 3 * SOON) < SOON


async def test_a_queue_whose_broker_is_there_is_ready(queue: Queue) -> None:
    await queue.check()
    await queue.ready()
    await queue.ring("gen_1")
    await queue.ready()


async def test_closing_wakes_who_waits_and_may_be_done_twice(queue: Queue) -> None:
    waiting = asyncio.create_task(waited(queue, 3 * SOON))
    await asyncio.sleep(0.05)
    await queue.close()
    await queue.close()
    assert await waiting < SOON


def test_a_queue_of_a_scheme_that_nobody_speaks_is_refused_without_its_password() -> None:
    with pytest.raises(Misconfigured, match="LOQUENT_QUEUE holds 'kafka://me:…@host/'") as refused:
        queues.connect("kafka://me:s3cr3t@host/")
    assert "s3cr3t" not in refused.value.message
