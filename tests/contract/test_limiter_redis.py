"""What only a limiter behind a network can get wrong: several processes, and a server that is away, frozen or empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loquent.domain.errors import Misconfigured
from loquent.limiters.redis import Redis
from loquent.ports.limiter import Rate
from redis_server import RedisServer

pytestmark = pytest.mark.anyio
FIVE_AN_HOUR = (Rate(5, 3600),)
BOTH = (Rate(5, 60), Rate(7, 3600))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Redis]:
    limiter = Redis(url)
    await limiter.open()
    try:
        yield limiter
    finally:
        await limiter.close()


async def until_back(limiter: Redis) -> None:
    async with asyncio.timeout(20):
        while limiter.is_alone:
            await asyncio.sleep(0.02)


async def test_processes_share_one_count(redis: RedisServer) -> None:
    url = f"{redis.url}?patience=5"
    async with opened(url) as one, opened(url) as other:
        states = await asyncio.gather(*(each.take("a", BOTH) for _ in range(50) for each in (one, other)))
        assert sum(state.allowed for state in states) == 5
        assert (await other.peek("a", BOTH)).remaining == 0
        await one.give_back("a", BOTH)
        assert (await other.take("a", BOTH)).allowed


async def test_a_refusal_by_one_window_counts_in_none(redis: RedisServer) -> None:
    async with opened(f"{redis.url}?patience=5") as limiter:
        for _ in range(20):
            await limiter.take("a", BOTH)
        assert (await limiter.peek("a", (Rate(7, 3600),))).remaining == 2


async def test_while_the_server_is_away_each_process_counts_for_itself(redis: RedisServer) -> None:
    async with opened(redis.url) as limiter:
        assert not limiter.is_alone
        redis.kill()
        states = [await limiter.take("a", FIVE_AN_HOUR) for _ in range(6)]
        assert [state.allowed for state in states] == [True] * 5 + [False]
        assert limiter.is_alone
        redis.start()
        await until_back(limiter)
        states = [await limiter.take("a", FIVE_AN_HOUR) for _ in range(6)]
        assert [state.allowed for state in states] == [True] * 5 + [False]  # empty, and exact again at once


async def test_a_frozen_server_holds_nobody_up(redis: RedisServer) -> None:
    async with opened(redis.url) as limiter:
        redis.freeze()
        async with asyncio.timeout(5):
            states = await asyncio.gather(*(limiter.take("a", FIVE_AN_HOUR) for _ in range(100)))
            assert sum(state.allowed for state in states) == 5
        redis.thaw()
        await until_back(limiter)
        assert (await limiter.take("b", FIVE_AN_HOUR)).allowed


async def test_it_opens_though_the_server_is_away(redis: RedisServer) -> None:
    redis.kill()
    async with opened(redis.url) as limiter:
        assert (await limiter.take("a", FIVE_AN_HOUR)).allowed
        redis.start()
        await until_back(limiter)


def test_a_url_that_names_no_server_is_told_without_its_password() -> None:
    with pytest.raises(Misconfigured) as refused:
        Redis("redis://ann:hunter22@host:nine/x")
    assert "hunter22" not in refused.value.message
