"""The limiter's contract, on every limiter of the table."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
import time_machine

from loquent.limiters import SCHEMES, connect
from loquent.ports.limiter import Limiter, Rate

pytestmark = pytest.mark.anyio
START = datetime(2026, 1, 1, tzinfo=UTC)
FIVE_A_MINUTE = (Rate(5, 60),)


@pytest.fixture(params=sorted(SCHEMES))
def limiter(request: pytest.FixtureRequest) -> Limiter:
    return connect(f"{request.param}:")


@pytest.fixture
def clock() -> time_machine.Traveller:  # type: ignore[misc]
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


async def test_up_to_the_count_is_allowed_and_remaining_counts_down(limiter: Limiter, clock) -> None:
    states = [await limiter.take("a", FIVE_A_MINUTE) for _ in range(6)]
    assert [state.remaining for state in states] == [4, 3, 2, 1, 0, 0]
    assert [state.allowed for state in states] == [True] * 5 + [False]


async def test_waiting_exactly_retry_after_succeeds_and_a_microsecond_less_does_not(limiter: Limiter, clock) -> None:
    for _ in range(5):
        await limiter.take("a", FIVE_A_MINUTE)
        clock.shift(1)
    refused = await limiter.take("a", FIVE_A_MINUTE)
    assert refused.retry_after == 55
    clock.shift(54.9)
    assert not (await limiter.take("a", FIVE_A_MINUTE)).allowed
    clock.shift(0.1)
    assert (await limiter.take("a", FIVE_A_MINUTE)).allowed


async def test_a_refused_attempt_is_not_counted(limiter: Limiter, clock) -> None:
    for _ in range(50):
        await limiter.take("a", FIVE_A_MINUTE)
    clock.shift(60)
    assert [(await limiter.take("a", FIVE_A_MINUTE)).allowed for _ in range(6)] == [True] * 5 + [False]


async def test_the_tightest_of_several_rates_rules(limiter: Limiter, clock) -> None:
    rates = (Rate(2, 60), Rate(3, 3600))
    assert [(await limiter.take("a", rates)).allowed for _ in range(3)] == [True, True, False]
    clock.shift(60)
    assert (await limiter.take("a", rates)).remaining == 0
    refused = await limiter.take("a", rates)
    assert (refused.rate, refused.retry_after) == (Rate(3, 3600), 3540)


async def test_keys_are_counted_apart(limiter: Limiter, clock) -> None:
    for _ in range(5):
        await limiter.take("a", FIVE_A_MINUTE)
    assert (await limiter.take("b", FIVE_A_MINUTE)).remaining == 4


async def test_what_is_given_back_may_be_taken_again(limiter: Limiter, clock) -> None:
    for _ in range(5):
        await limiter.take("a", FIVE_A_MINUTE)
    await limiter.give_back("a", FIVE_A_MINUTE)
    assert (await limiter.peek("a", FIVE_A_MINUTE)).remaining == 1
    assert (await limiter.take("a", FIVE_A_MINUTE)).allowed


async def test_peeking_does_not_count(limiter: Limiter, clock) -> None:
    assert {(await limiter.peek("a", FIVE_A_MINUTE)).remaining for _ in range(9)} == {5}


async def test_fifty_callers_at_once_never_take_more_than_the_count(limiter: Limiter, clock) -> None:
    states = await asyncio.gather(*(limiter.take("a", (Rate(20, 60),)) for _ in range(50)))
    assert sum(state.allowed for state in states) == 20
    assert sorted(state.remaining for state in states if state.allowed) == list(range(20))


async def test_keys_out_of_use_are_forgotten(clock) -> None:
    from loquent.limiters import memory

    limiter = memory.Memory()
    for number in range(memory.FORGET_EVERY - 1):
        await limiter.take(f"caller {number}", FIVE_A_MINUTE)
    clock.shift(61)
    await limiter.take("last", FIVE_A_MINUTE)
    assert len(limiter._lines) == 1
