"""A store that is away: a moment's gap is waited for; then answers are refused before a model works for them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import time_machine

from built import ANN, opened, wanted
from loquent.domain.clock import SECOND, later, now
from loquent.domain.errors import Unavailable
from loquent.domain.generations import Content, Generation, claimed
from loquent.domain.requests import Parameters
from loquent.ports.engine import Chunk
from loquent.services.backlog import Backlog, Bounds
from loquent.services.generations import Generations
from loquent.services.live import Live
from loquent.services.pace import Pace
from loquent.services.runner import Runner
from loquent.services.writes import GONE, WRITE_TRIES
from loquent.wiring import Services

pytestmark = pytest.mark.anyio
SLOW, QUICK = Pace(), Pace(again=0.01)


class Absent:
    """Any store, which is away while ``is_away``."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.is_away = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        if self.is_away:
            self.refused += 1
            raise Unavailable("the store is away", retry_after=1)
        return getattr(self._store, name)


class House:
    """The services' own generations over such a store; ``asked`` counts how often the model was."""

    def __init__(self, services: Services, pace: Pace = SLOW) -> None:
        self.store, self.asked = Absent(services.store), 0
        self.runner = Runner(self.store, {"text": self._recipe}, pace)
        parts = (services.models, services.limits, self.runner, services.queue, services.answers)
        backlog = Backlog(self.store, Bounds(10, 10, 10))
        self._generations = Generations(self.store, *parts, backlog, services.tokens)

    async def _recipe(self, _: Live) -> Any:
        self.asked += 1
        yield Chunk("word")

    async def ask(self) -> str:
        begun = await self._generations.begin(ANN, wanted("word"))
        return (await self._generations.collect(begun)).now()[0].status


async def test_a_gap_of_a_moment_costs_an_answer_some_time_and_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        house = House(services)
        house.store.is_away = True
        asking = asyncio.create_task(house.ask())
        await asyncio.sleep(0.2)
        house.store.is_away = False
        assert await asking == "completed"
        assert not house.runner.writes.is_gone


async def test_while_the_store_stays_away_no_model_works_for_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        house = House(services)
        house.store.is_away = True
        asking = asyncio.create_task(house.ask())
        await asyncio.sleep(0.05)
        with time_machine.travel((now() / 1e6) + GONE + 1, tick=True):
            with pytest.raises(Unavailable):
                await asking
            assert house.asked == 1
            with pytest.raises(Unavailable) as told:
                await house.ask()
            assert told.value.retry_after
            assert house.asked == 1, "the model worked for nothing"
            house.store.is_away = False
            assert await house.ask() == "completed"
            assert not house.runner.writes.is_gone


async def begun(services: Services, house: House, *, lease: float) -> tuple[Live, asyncio.Task[Live]]:
    """A job that is run while the store is away, and has so many seconds."""
    job = (await services.generations.submit(ANN, wanted("word"))).generation
    put, add = claimed(later(now(), lease), "a worker")
    [taken] = await services.store.take(Generation, "due", {}, until=now(), n=1, put=put, add=add)
    [content] = await services.store.get(Content, job.id)
    live = Live(services.models.offers["echo"], taken, content, Parameters(), streamed=True, saved=True)
    house.store.is_away = True
    return live, asyncio.create_task(house.runner.collect(live))


async def test_the_end_of_a_job_is_kept_once_the_store_is_back_while_its_lease_holds(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        house = House(services, QUICK)
        live, running = await begun(services, house, lease=60)
        while house.store.refused < 2 * WRITE_TRIES and not running.done():
            await asyncio.sleep(0.01)
        house.store.is_away = False
        await running
        [record] = await services.store.get(Generation, live.generation.id)
        assert (record.status, record.attempts) == ("completed", 1)


async def test_the_end_of_a_job_is_given_up_with_its_lease(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        house = House(services, QUICK)
        live, running = await begun(services, house, lease=0.3)
        with pytest.raises(Unavailable):
            await running
        assert 0 <= (now() - (live.generation.due_at or 0)) / SECOND < 30


async def test_a_stop_does_not_wait_for_a_store_that_stays_away(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        house = House(services, QUICK)
        _, running = await begun(services, house, lease=600)
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await house.runner.close()
            with pytest.raises(Unavailable):
                await running
