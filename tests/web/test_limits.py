"""Limits through the application: what the headers say is true, in both dialects, and who obeys them is served."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from asking import JSON, Answer, ask, serving, token_of
from loquent.web.errors import _duration
from surfaces import TEXT

pytestmark = pytest.mark.anyio
START = datetime(2026, 1, 1, tzinfo=UTC)
GENERATIONS, SUMMARIES = "/api/v1/generations", "/api/v1/summaries"
BODIES = {
    GENERATIONS: {"prompt": "x"},
    SUMMARIES: {"text": TEXT},
    "/v1/completions": {"model": "echo", "prompt": "x"},
    "/text_generations": {"prompt": "x"},
}


class Clock:
    """A clock that moves when told."""

    def __init__(self, traveller: Any) -> None:
        self._traveller = traveller
        self.present = START

    def move(self, seconds: float) -> None:
        self.present += timedelta(seconds=seconds)
        self._traveller.move_to(self.present)


@pytest.fixture
def clock() -> Iterator[Clock]:
    with time_machine.travel(START, tick=False) as traveller:
        yield Clock(traveller)


async def post(app: Any, services: Any, path: str, who: str = "ann") -> Answer:
    headers = [JSON, ("authorization", f"Bearer {token_of(services, who)}")]
    return await ask(app, "POST", path, headers=headers, body=json.dumps(BODIES[path]).encode())


def told(answer: Answer) -> tuple[int, int, int, int]:
    """Count, window, remaining and reset, as both dialects say them."""
    policy = re.fullmatch(r'"requests";q=(\d+);w=(\d+)', answer.header("ratelimit-policy") or "")
    state = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.header("ratelimit") or "")
    assert policy is not None
    assert state is not None
    assert answer.header("x-ratelimit-limit-requests") == policy[1]
    assert answer.header("x-ratelimit-remaining-requests") == state[1]
    reset = seconds_of(answer.header("x-ratelimit-reset-requests") or "")
    assert math.ceil(reset) == int(state[2])
    return int(policy[1]), int(policy[2]), int(state[1]), int(state[2])


def seconds_of(duration: str) -> float:
    """A duration as OpenAI's SDKs and their like read it."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    assert re.fullmatch(r"(?:[\d.]+(?:ms|s|m|h))+", duration), duration
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", duration))


@pytest.mark.no_cover  # the same lines 10,000 times: to count them takes longer than the test
async def test_who_obeys_the_headers_sees_no_second_429_in_10_000_requests(tmp_path: Path, clock: Clock) -> None:
    limit = {"LOQUENT_LIMIT_GENERATIONS": "6/second, 60/minute, 1000/hour", "LOQUENT_TOKEN_MINUTES": "500000"}
    async with serving(tmp_path, works=False, **limit) as (app, services):
        headers = [JSON, ("authorization", f"Bearer {token_of(services, 'ann')}")]
        refused, was_refused = 0, False
        for number in range(10_000):
            answer = await ask(app, "POST", GENERATIONS, headers=headers, body=b'{"prompt":"x"}')
            assert answer.status in (200, 429)
            if answer.status == 200:
                was_refused = False
                clock.move((number % 13) / 1000)
                continue
            assert not was_refused, f"refused again, at request {number}"
            was_refused, refused = True, refused + 1
            in_seconds, in_ms = int(answer.header("retry-after") or 0), int(answer.header("retry-after-ms") or 0)
            assert in_seconds == max(1, math.ceil(in_ms / 1000))
            clock.move(in_seconds if number % 2 else in_ms / 1000)
        assert refused > 100


async def test_who_waits_for_the_reset_when_nothing_remains_sees_no_429_at_all(tmp_path: Path, clock: Clock) -> None:
    limit = {"LOQUENT_LIMIT_GENERATIONS": "7/minute, 30/hour", "LOQUENT_TOKEN_MINUTES": "500000"}
    async with serving(tmp_path, works=False, **limit) as (app, services):
        for number in range(300):
            answer = await post(app, services, GENERATIONS)
            assert answer.status == 200, number
            _, _, remaining, reset = told(answer)
            by_duration = seconds_of(answer.header("x-ratelimit-reset-requests") or "")
            clock.move(0.0137 if remaining else by_duration if number % 2 else reset)


@pytest.mark.parametrize("path", ["/api/v1/generations", "/v1/completions", "/text_generations"])
async def test_fifty_clients_at_once_are_each_told_another_number(tmp_path: Path, clock: Clock, path: str) -> None:
    async with serving(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="120/minute, 1000/hour") as (app, services):
        left = 120
        for _ in range(3):
            answers = await asyncio.gather(*(post(app, services, path) for _ in range(50)))
            served = [told(answer)[2] for answer in answers if answer.status == 200]
            assert sorted(served, reverse=True) == list(range(left - 1, max(0, left - 50) - 1, -1))
            refused = [answer for answer in answers if answer.status == 429]
            assert len(served) + len(refused) == 50
            assert {told(answer)[:3] for answer in refused} <= {(120, 60, 0)}
            assert {answer.header("retry-after") for answer in refused} <= {"60"}
            left = max(0, left - 50)
        clock.move(59.9)
        assert (await post(app, services, path)).status == 429
        clock.move(0.1)
        assert told(await post(app, services, path))[2] == 119


@pytest.mark.parametrize("path", [GENERATIONS, SUMMARIES])
async def test_the_plain_variables_are_the_minute_and_the_hour_of_both_kinds(
    tmp_path: Path, clock: Clock, path: str
) -> None:
    rates = {"LOQUENT_LIMIT_GENERATIONS": "60/minute, 1000/hour", "LOQUENT_LIMIT_SUMMARIES": "10/minute, 100/hour"}
    rates |= {"RATE_LIMIT_PER_MINUTE": "3", "RATE_LIMIT_PER_HOUR": "5"}
    async with serving(tmp_path, works=False, **rates) as (app, services):
        answers = [await post(app, services, path) for _ in range(4)]
        assert [told(answer)[:3] for answer in answers] == [(3, 60, 2), (3, 60, 1), (3, 60, 0), (3, 60, 0)]
        assert [answer.status for answer in answers][-2:] != [429, 429]
        assert answers[-1].status == 429
        clock.move(60)
        answers = [await post(app, services, path) for _ in range(3)]
        assert [told(answer)[:3] for answer in answers] == [(5, 3600, 1), (5, 3600, 0), (5, 3600, 0)]
        assert (answers[-1].status, answers[-1].header("retry-after")) == (429, "3540")


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("RATE_LIMIT_PER_MINUTE", {"generations": {(2, 60), (1000, 3600)}, "summaries": {(2, 60), (100, 3600)}}),
        ("RATE_LIMIT_PER_HOUR", {"generations": {(60, 60), (2, 3600)}, "summaries": {(10, 60), (2, 3600)}}),
    ],
)
async def test_one_plain_variable_leaves_the_other_window_as_it_is(
    tmp_path: Path, name: str, rates: dict[str, set[tuple[int, int]]]
) -> None:
    shipped = {"LOQUENT_LIMIT_GENERATIONS": "", "LOQUENT_LIMIT_SUMMARIES": "", "LOQUENT_LIMIT_LOGINS": ""}
    async with serving(tmp_path, works=False, **shipped, **{name: "2"}) as (_, services):
        for rule, windows in rates.items():
            assert {(rate.count, rate.seconds) for rate in services.limits.rules[rule]} == windows
        assert [(rate.count, rate.seconds) for rate in services.limits.rules["logins"]] == [(10, 60), (60, 3600)]


@pytest.mark.parametrize("seconds", [0.0001, 0.0123, 0.9999, 1, 7.5, 7.5121, 59.9991, 60, 61.2, 3540, 3599.1])
def test_a_duration_is_never_less_than_it_is(seconds: float) -> None:
    read = seconds_of(_duration(seconds).decode())
    assert seconds <= read + 1e-9
    assert read < seconds + (0.0011 if seconds < 60 else 1)
