"""The cache's contract, on every cache: memory, a real server, and the one before the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from contract.caches import CACHES, Made
from loquent.ports.cache import Cache
from redis_server import RedisServer, redis_server

pytestmark = pytest.mark.anyio
NEAR = 1.0  # seconds for which a value that was dropped elsewhere may be found
_made = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=CACHES, ids=lambda each: each.name)
def made(request: pytest.FixtureRequest) -> Made:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def cache(made: Made, server: RedisServer) -> AsyncIterator[Cache]:
    one = made.make(server.url)
    await one.open()
    yield one
    await one.close()


@pytest.fixture
def key() -> str:
    return f"key{next(_made)}"


@pytest.mark.parametrize("value", [b"", b"text", bytes(range(256)), b"\r\n$-1\r\n", b"x" * 1_000_000])
async def test_what_was_put_comes_back_as_it_was(cache: Cache, key: str, value: bytes) -> None:
    await cache.put(key, value, 60)
    assert [await cache.get(key), await cache.get(key)] == [value, value]


async def test_nothing_is_under_a_key_that_nobody_used(cache: Cache, key: str) -> None:
    await cache.put(f"{key}0", b"of another", 60)
    assert await cache.get(key) is None


async def test_the_last_that_was_put_counts(cache: Cache, key: str) -> None:
    await cache.put(key, b"first", 60)
    await cache.put(key, b"second", 60)
    assert await cache.get(key) == b"second"


async def test_what_is_dropped_is_gone_and_the_rest_is_not(cache: Cache, key: str) -> None:
    keys = [f"{key}-{number}" for number in range(3)]
    for each in keys:
        await cache.put(each, each.encode(), 60)
    await cache.drop(keys[0], keys[2], "never there")
    await cache.drop()
    assert [await cache.get(each) for each in keys] == [None, keys[1].encode(), None]


async def test_its_time_runs_out(cache: Cache, key: str) -> None:
    began = time.monotonic()
    await cache.put(key, b"short", 0.2)
    await cache.put(f"{key}-long", b"long", 60)
    async with asyncio.timeout(20):
        while (found := await cache.get(key)) is not None:
            assert found == b"short"
            await asyncio.sleep(0.02)
    assert time.monotonic() - began > 0.19, "not before its time"
    assert await cache.get(f"{key}-long") == b"long"


async def test_many_at_once_get_each_their_own(cache: Cache, key: str) -> None:
    keys = [f"{key}-{number}" for number in range(300)]
    await asyncio.gather(*(cache.put(each, each.encode() * 10, 60) for each in keys))
    assert await asyncio.gather(*map(cache.get, keys)) == [each.encode() * 10 for each in keys]


async def test_a_call_that_is_cancelled_spoils_no_other(cache: Cache, key: str) -> None:
    keys = [f"{key}-{number}" for number in range(40)]
    for each in keys:
        await cache.put(each, each.encode(), 60)
    for turns in range(5):
        tasks = [asyncio.create_task(cache.get(each)) for each in keys]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        for each, found in zip(keys, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            assert isinstance(found, asyncio.CancelledError) or found == each.encode()
    assert await asyncio.gather(*map(cache.get, keys)) == [each.encode() for each in keys]


async def test_it_says_that_it_is_ready_and_may_be_closed_twice(cache: Cache) -> None:
    await cache.ready()
    await cache.close()
    await cache.close()


async def test_what_one_process_puts_and_drops_is_so_in_another_within_a_second(
    cache: Cache, made: Made, server: RedisServer, key: str
) -> None:
    if not made.is_shared:
        pytest.skip("each process has its own")
    other = made.make(server.url)
    await other.open()
    try:
        await cache.put(key, b"shared", 60)
        assert await other.get(key) == b"shared"
        await cache.drop(key)
        assert await cache.get(key) is None
        await asyncio.sleep(NEAR + 0.1)
        assert await other.get(key) is None
    finally:
        await other.close()
