"""A part that is away: one line when it goes, one a minute, one when it is back; whoever asks, and whatever fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import time_machine

from built import opened
from loquent.domain.errors import Unavailable
from loquent.domain.log import Log
from loquent.domain.outages import Outage
from loquent.ports.outages import outage_of
from loquent.services.jobs import Worker
from loquent.services.looks import Looks

pytestmark = pytest.mark.anyio
GONE, BACK = "the database cannot be used", "the database is back"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """What was said so far, each with its fields."""
    caplog.set_level(logging.INFO, "loquent")
    return lambda: [(each.getMessage(), getattr(each, "fields", {})) for each in caplog.records]


@pytest.fixture
def clock() -> Iterator[time_machine.Coordinates]:
    with time_machine.travel(1_000_000, tick=False) as travelled:
        yield travelled


def test_an_outage_is_told_once_reminded_of_each_minute_and_over_once(
    lines: Any, clock: time_machine.Coordinates
) -> None:
    outage = Outage(Log("loquent.x"), gone="it is away", back="it is back")
    outage.back("a")
    for _ in range(130):
        outage.gone("a", "no route")
        clock.shift(1)
    outage.back("a")
    outage.back("a")
    assert lines() == [
        ("it is away", {"why": "no route"}),
        ("it is away", {"why": "no route", "seconds": 60}),
        ("it is away", {"why": "no route", "seconds": 120}),
        ("it is back", {"seconds": 130.0}),
    ]


def test_what_can_be_read_and_not_written_is_not_back_with_each_read(
    lines: Any, clock: time_machine.Coordinates
) -> None:
    outage = Outage(Log("loquent.x"), gone="it is away", back="it is back")
    for _ in range(30):
        outage.gone("write", "the disk is full")
        clock.shift(1)
        outage.back("read")
    assert lines() == [("it is away", {"why": "the disk is full"})]
    for _ in range(20):  # nobody writes any more
        clock.shift(1)
        outage.back("read")
    assert lines()[1:] == [("it is back", {"seconds": 30.0})]


class Absent:
    """Any store, which is away while ``is_away``."""

    def __init__(self, store: Any) -> None:
        self._store, self.is_away, self.asked = store, True, 0

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        if self.is_away:
            raise Unavailable("no connection")
        return getattr(self._store, name)


async def test_all_who_look_into_a_store_tell_of_it_with_one_voice(tmp_path: Path, lines: Any) -> None:
    async with opened(tmp_path, works=False) as services:
        store: Any = Absent(services.store)
        outage = outage_of(services.store)
        parts = (services.runner, services.models, services.queue)
        worker = Worker(store, *parts, slots=1, sweep_seconds=0.02, outage=outage)

        async def look() -> None:
            await store.page(object, "", {})

        looks = [Looks(what, look, Log("loquent.x"), outage) for what in ("models", "revocations")]
        await worker.open(alone=False)
        for each in looks:
            each.open()
        async with asyncio.timeout(30):
            while store.asked < 20:
                await asyncio.sleep(0.02)
        assert [line for line in lines() if GONE in line[0]] == [(GONE, {"why": "no connection"})]
        assert not [line for line in lines() if "cannot" in line[0] and line[0] != GONE]
        for each in looks:
            await each.close()
        store.is_away = False
        async with asyncio.timeout(60):
            while not [line for line in lines() if line[0] == BACK]:
                await asyncio.sleep(0.05)
        await worker.close()
