"""Equal requests at once: one call of the engine, and nobody is harmed by what befalls another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from answering import Counted, answering, asked, is_hit, wanted
from built import ANN, ANN_ELSEWHERE, BOB
from loquent.domain.errors import EngineTimeout, LoquentError, Unavailable
from loquent.domain.generations import Content, Generation
from loquent.domain.requests import Parameters
from loquent.wiring import Services

pytestmark = pytest.mark.anyio
SOON = 20.0


async def until_asked(model: Counted, times: int) -> None:
    """Wait until the engine has been called so often, and everybody else has settled."""
    async with asyncio.timeout(SOON):
        while model.asked < times:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)


def begun(services: Services, count: int, **more: object) -> list[asyncio.Task[tuple[Generation, Content]]]:
    """So many equal requests, under way."""
    return [asyncio.create_task(asked(services, **more)) for _ in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streams"])
async def test_equal_requests_at_once_make_one_call(tmp_path: Path, streamed: bool) -> None:
    async with answering(tmp_path) as (services, model):
        model.go.clear()
        tasks = begun(services, 20, streamed=streamed)
        await until_asked(model, 1)
        model.go.set()
        done = await asyncio.gather(*tasks)
    assert model.asked == 1
    assert {content.output for _, content in done} == {"answer 1"}
    assert [is_hit(made) for made, _ in done].count(False) == 1
    assert sorted(made.cost > 0 for made, _ in done) == [False] * 19 + [True]


async def test_what_may_not_be_kept_is_asked_each_time(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        model.go.clear()
        tasks = begun(services, 5, parameters=Parameters(temperature=0.7))
        await until_asked(model, 5)
        model.go.set()
        await asyncio.gather(*tasks)


async def test_another_tenant_and_who_wants_none_wait_for_nobody(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        model.go.clear()
        tasks = [*begun(services, 2), *begun(services, 2, who=ANN_ELSEWHERE), *begun(services, 1, cache=False)]
        tasks += begun(services, 1, who=BOB)
        await until_asked(model, 3)
        model.go.set()
        done = await asyncio.gather(*tasks)
    assert model.asked == 3
    texts = [content.output for _, content in done]
    assert texts[0] == texts[1] == texts[5]
    assert texts[2] == texts[3]
    assert len(set(texts)) == 3


async def test_when_the_first_leaves_the_next_takes_over(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        model.go.clear()
        tasks = begun(services, 5)
        for number in range(1, 4):
            await until_asked(model, number)
            tasks.pop(0).cancel()
        await until_asked(model, 4)
        model.go.set()
        done = await asyncio.gather(*tasks)
    assert model.asked == 4
    assert {content.output for _, content in done} == {"answer 4"}
    assert [is_hit(made) for made, _ in done] == [False, True]


async def test_when_the_first_is_cancelled_by_its_owner_the_next_takes_over(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        model.go.clear()
        first = await services.generations.begin(ANN, wanted())
        running = asyncio.create_task(services.generations.collect(first))
        await until_asked(model, 1)
        [other] = begun(services, 1)
        await asyncio.sleep(0.02)
        made, _ = await services.generations.cancel(ANN, first.generation.id)
        await running
        await until_asked(model, 2)
        model.go.set()
        _, content = await other
    assert (made.status, content.output) == ("cancelled", "answer 2")


async def test_those_who_wait_may_leave_and_harm_nobody(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        model.go.clear()
        tasks = begun(services, 10)
        await until_asked(model, 1)
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.sleep(0.02)
        model.go.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [False, True] * 5
    assert model.asked == 1


async def test_when_the_first_fails_the_next_takes_over(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        model.go.clear()
        model.faults = [500]
        tasks = begun(services, 5)
        await until_asked(model, 1)
        model.go.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, Unavailable) for each in done] == [True, False, False, False, False]
    assert model.asked == 2


async def test_when_it_fails_again_and_again_nobody_waits_in_line_for_ever(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        model.faults, model.seconds = [400] * 8, 0.1
        done = await asyncio.gather(*begun(services, 8), return_exceptions=True)
        assert all(isinstance(each, LoquentError) for each in done)
        assert (model.asked, model.most) == (8, 6), "one, one more, and then all the others at once"
        _, content = await asked(services)
        assert content.output == "answer 9", "and then all is well again"


async def test_who_waits_is_told_when_it_takes_too_long(tmp_path: Path) -> None:
    async with answering(tmp_path, row="timeouts = {total = 0.3}") as (services, model):
        first = await services.generations.begin(ANN, wanted(streamed=True))
        chunks = services.generations.stream(first)
        await anext(chunks)  # and its caller takes no more
        with pytest.raises(EngineTimeout, match="an equal request"):
            await asked(services)
        await chunks.aclose()  # type: ignore[attr-defined]
        _, content = await asked(services)
    assert (content.output, model.asked) == ("answer 2", 2)


async def test_what_is_erased_is_told_to_nobody_who_asks_from_then_on(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        made, _ = await asked(services)
        slow = await services.generations.begin(BOB, wanted(streamed=True))
        chunks = services.generations.stream(slow)
        await anext(chunks)  # told the kept answer, and not yet over
        await services.generations.remove(ANN, made.id)
        _, content = await asked(services)
        await chunks.aclose()  # type: ignore[attr-defined]
    assert (content.output, model.asked) == ("answer 2", 2)
