"""Caches one by one: how memory is bounded, and what a server that is away, slow or full does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loquent.caches import connect
from loquent.caches.memory import BESIDE, Memory
from loquent.caches.redis import Redis
from loquent.domain.errors import Misconfigured, Unavailable
from loquent.ports.cache import Cache
from redis_server import RedisServer, redis_server

pytestmark = pytest.mark.anyio
HEALS = 10.0  # seconds in which a server that is back must have been found


@pytest.fixture
def server(tmp_path: Path):
    with redis_server(tmp_path) as started:
        yield started


@asynccontextmanager
async def opened(cache: Cache) -> AsyncIterator[Cache]:
    await cache.open()
    try:
        yield cache
    finally:
        await cache.close()


async def healed(cache: Cache) -> None:
    until = time.monotonic() + HEALS
    while True:
        try:
            return await cache.ready()
        except Unavailable:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)


async def refused(cache: Cache) -> float:
    """How long the longest of its calls took, all of which must say that it is away."""
    times = []
    for call in (cache.get("key"), cache.put("key", b"value", 60), cache.drop("key"), cache.ready()):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await call
        times.append(time.monotonic() - began)
    return max(times)


async def test_memory_keeps_to_its_bytes_and_what_was_used_last_stays() -> None:
    memory = Memory(10 * (1000 + BESIDE))
    for number in range(10):
        await memory.put(f"{number}", b"x" * 1000, 60)
    await memory.get("0")
    await memory.put("10", b"x" * 1000, 60)
    kept = {number for number in range(11) if await memory.get(f"{number}")}
    assert kept == {0, *range(2, 11)}
    await memory.put("large", b"x" * 5000, 60)
    assert len([number for number in range(11) if await memory.get(f"{number}")]) == 5


async def test_memory_counts_what_was_replaced_or_dropped_no_more() -> None:
    memory = Memory(3 * (1000 + BESIDE))
    for _ in range(50):
        await memory.put("same", b"x" * 1000, 60)
        await memory.put("dropped", b"x" * 1000, 60)
        await memory.drop("dropped")
    await memory.put("a", b"x" * 1000, 60)
    await memory.put("b", b"x" * 1000, 60)
    assert [await memory.get(key) is not None for key in ("same", "a", "b")] == [True] * 3


async def test_memory_keeps_nothing_that_is_larger_than_all_its_room_and_loses_nothing_for_it() -> None:
    memory = Memory(2000)
    await memory.put("small", b"x", 60)
    await memory.put("huge", b"x" * 2000, 60)
    assert [await memory.get("small"), await memory.get("huge")] == [b"x", None]
    await memory.put("small", b"x" * 2000, 60)
    assert await memory.get("small") is None, "the former value is no answer any more"


async def test_a_server_that_is_killed_is_said_to_be_away_at_once_and_found_again_empty(server: RedisServer) -> None:
    async with opened(Redis(server.url)) as cache:
        await cache.put("key", b"value", 60)
        server.kill()
        assert await refused(cache) < 2
        server.start()
        await healed(cache)
        assert await cache.get("key") is None
        await cache.put("key", b"again", 60)
        assert await cache.get("key") == b"again"


async def test_a_server_that_stands_still_costs_a_moment_once_and_is_found_again(server: RedisServer) -> None:
    async with opened(Redis(server.url)) as cache:
        await cache.put("key", b"value", 60)
        server.freeze()
        began = time.monotonic()
        async with asyncio.timeout(5):
            said = await asyncio.gather(*(cache.get("key") for _ in range(100)), return_exceptions=True)
        assert all(isinstance(each, Unavailable) for each in said)
        assert await refused(cache) < 2
        assert time.monotonic() - began < 5
        server.thaw()
        await healed(cache)
        assert await asyncio.gather(*(cache.get("key") for _ in range(20))) == [b"value"] * 20


async def test_a_server_that_is_not_there_at_the_start_is_found_when_it_comes(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    async with opened(Redis(server.url)) as cache:
        assert await refused(cache) < 2
        server.start()
        try:
            await healed(cache)
            await cache.put("key", b"value", 60)
            assert await cache.get("key") == b"value"
        finally:
            server.kill()


async def test_a_server_that_is_full_refuses_what_is_put_and_still_gives_what_it_has(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as server:
        async with opened(Redis(server.url)) as cache:
            await cache.put("key", b"value", 60)
            with pytest.raises(Unavailable, match="OutOfMemory"):
                for number in range(100):
                    await cache.put(f"{number}", b"x" * 200_000, 60)
            assert await cache.get("key") == b"value"
            await cache.drop(*map(str, range(100)))
            await cache.put("key", b"again", 60)
            assert await cache.get("key") == b"again"


async def test_a_password_is_used_and_never_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with redis_server(tmp_path, "--requirepass", "p4ssw0rd") as server:
        for password, is_right in (("p4ssw0rd", True), ("wr0ng", False)):
            async with opened(Redis(f"redis://:{password}@127.0.0.1:{server.port}/0")) as cache:
                if is_right:
                    await cache.put("key", b"value", 60)
                    assert await cache.get("key") == b"value"
                else:
                    await refused(cache)
    assert "p4ssw0rd" not in caplog.text
    assert "wr0ng" not in caplog.text


@pytest.mark.parametrize("url", ["redis://:p4ss@host:notaport/0", "redis://:p4/ss@host"])
def test_a_url_that_names_no_server_stops_the_start_without_its_password(url: str) -> None:
    with pytest.raises(Misconfigured, match="LOQUENT_CACHE holds") as told:
        connect(url, size=1_000_000)
    assert "p4" not in told.value.message
