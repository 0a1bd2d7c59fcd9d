"""The limiter's contract, on every limiter of the table."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from loquent.limiters import SCHEMES, connect
from loquent.ports.limiter import Limiter, Rate

pytestmark = pytest.mark.anyio
START = datetime(2026, 1, 1, tzinfo=UTC)
FIVE_A_MINUTE = (Rate(5, 60),)


@pytest.fixture(params=["memory", "redis"])
async def limiter(request: pytest.FixtureRequest) -> AsyncIterator[Limiter]:
    made = connect("memory:" if request.param == "memory" else f"{request.getfixturevalue('redis').url}?patience=5")
    await made.open()
    yield made
    await made.close()


def test_every_scheme_is_held_against_the_contract() -> None:
    assert set(SCHEMES) == {"memory", "redis", "rediss"}


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


RATES = (Rate(7, 1), Rate(60, 60), Rate(1000, 3600))


@pytest.mark.parametrize("unit", [1, 1_000_000], ids=["whole seconds", "microseconds"])
async def test_who_waits_as_told_is_never_refused_twice_in_3_000_attempts(limiter: Limiter, clock, unit: int) -> None:
    present, refused, was_refused = START, 0, False
    for attempt in range(3_000):
        state = await limiter.take("a", RATES)
        assert state.allowed or not was_refused, f"refused again, at attempt {attempt}"
        was_refused = not state.allowed
        refused += was_refused
        wait = math.ceil(state.retry_after * unit) / unit if was_refused else (attempt % 13) / 1000
        present += timedelta(seconds=wait)
        clock.move_to(present)
    assert refused > 100


async def test_who_waits_for_the_reset_when_nothing_remains_is_never_refused(limiter: Limiter, clock) -> None:
    present = START
    for attempt in range(2_000):
        state = await limiter.take("a", RATES)
        assert state.allowed, attempt
        present += timedelta(seconds=0.001 if state.remaining else state.reset)
        clock.move_to(present)


async def test_remaining_is_what_may_still_be_taken_now(limiter: Limiter, clock) -> None:
    present, rates = START, (Rate(5, 10), Rate(8, 60))
    for step in range(200):
        told = (await limiter.peek("a", rates)).remaining
        if step % 20 == 19:
            taken = 0
            while (state := await limiter.take("a", rates)).allowed:
                taken += 1
                assert state.remaining == told - taken
            assert taken == told, "no more and no less than was told"
        elif step % 3:
            state = await limiter.take("a", rates)
            assert (state.allowed, state.remaining) == (told > 0, max(0, told - 1))
        present += timedelta(seconds=step % 7)
        clock.move_to(present)


async def test_fifty_at_once_are_each_told_another_number_while_the_window_slides(limiter: Limiter, clock) -> None:
    rates, present = (Rate(120, 60), Rate(1000, 3600)), START
    for _ in range(40):
        told = (await limiter.peek("a", rates)).remaining
        states = await asyncio.gather(*(limiter.take("a", rates) for _ in range(50)))
        allowed = [state.remaining for state in states if state.allowed]
        assert sorted(allowed, reverse=True) == list(range(told - 1, told - 1 - len(allowed), -1))
        assert len(allowed) == min(50, told)
        present += timedelta(seconds=11)
        clock.move_to(present)


async def test_of_two_rates_as_tight_the_longer_one_is_told(limiter: Limiter, clock) -> None:
    state = await limiter.take("a", (Rate(3, 60), Rate(3, 3600)))
    assert (state.rate.seconds, state.reset) == (3600, 3600)


async def test_keys_out_of_use_are_forgotten(clock) -> None:
    from loquent.limiters import memory

    limiter = memory.Memory()
    for number in range(memory.FORGET_EVERY - 1):
        await limiter.take(f"caller {number}", FIVE_A_MINUTE)
    clock.shift(61)
    await limiter.take("last", FIVE_A_MINUTE)
    assert len(limiter._lines) == 1
