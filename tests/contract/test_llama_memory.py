"""Several embedded models within a bound of memory: who is loaded, who makes room, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from loquent.domain.errors import EngineTimeout, ModelLoading, NotInstalled, Unavailable
from loquent.domain.models import Adapter, Model, Timeouts
from loquent.domain.requests import Message
from loquent.engines import Options
from loquent.engines.llama import Llama
from loquent.engines.llama_hold import PATIENCE
from loquent.engines.llama_load import Weights
from loquent.engines.llama_memory import HOLD, machine_memory
from samples import gguf

from .llamas import CONTEXT, all_free, asked, opened, options, row, text

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SLOTS = 2
LONG = 100_000  # tokens: until the context ends
SEEN = asked("Once", max_tokens=3, temperature=0.0)


class Loads(Counter[str]):
    """How often each file was loaded, and unloaded to make room, by the log."""

    def __init__(self) -> None:
        super().__init__()
        self.unloaded: list[str] = []

    def emit(self, record: logging.LogRecord) -> bool:
        fields: dict[str, Any] = record.__dict__["fields"]
        if record.getMessage() == "model loaded":
            self[fields["file"]] += 1
        else:
            self.unloaded.append(fields["file"])
        return False


@pytest.fixture
def loads() -> Iterator[Loads]:
    log, loads = logging.getLogger("loquent.llama"), Loads()
    level = log.level
    log.setLevel(logging.INFO)
    log.addFilter(loads.emit)
    yield loads
    log.removeFilter(loads.emit)
    log.setLevel(level)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        gguf.model(tmp_path / f"{name}.gguf", seed=number * 100, context=8192)
    return tmp_path


def of(name: str, **more: Any) -> Model:
    return row(name=name, id=f"{name}.gguf", **more)


def given(folder: Path, models: float, **more: Any) -> Options:
    """A deployment with memory for so many of the small models; nothing is loaded before it is asked for."""
    most = {"slots": SLOTS, "at_start": lambda name: False, **more}
    need = Weights(folder / "a.gguf").need(options(folder, **most), ())
    return options(folder, **most, memory=int(models * need))


async def test_the_one_asked_longest_ago_makes_room(folder: Path, loads: Loads) -> None:
    async with opened(given(folder, 2.5), of("a"), of("b"), of("c")) as (a, b, c):
        for engine in (a, b, a, c):
            await text(engine, SEEN)
        assert loads.unloaded == ["b.gguf"]
        await text(a, SEEN)
        assert loads == {"a.gguf": 1, "b.gguf": 1, "c.gguf": 1}


async def test_with_room_for_one_each_is_loaded_when_it_is_asked(folder: Path, loads: Loads) -> None:
    async with opened(given(folder, 1), of("a"), of("b")) as (a, b):
        first = await text(a, SEEN)
        assert await text(b, SEEN) != first
        assert await text(a, SEEN) == first
        assert await text(a, SEEN) == first
    assert loads == {"a.gguf": 2, "b.gguf": 1}


@pytest.mark.parametrize("models", [0, 2])
async def test_with_room_for_all_or_no_bound_each_is_loaded_once(folder: Path, loads: Loads, models: int) -> None:
    async with opened(given(folder, models), of("a"), of("b")) as (a, b):
        for engine in (a, b, a, b):
            await text(engine, SEEN)
    assert loads == {"a.gguf": 1, "b.gguf": 1}
    assert not loads.unloaded


async def test_rows_of_the_same_weights_are_in_memory_once(folder: Path, loads: Loads) -> None:
    other = row(name="other", id="a.gguf")
    async with opened(given(folder, 1), of("a"), other) as (a, also_a):
        assert await text(a, SEEN) == await text(also_a, SEEN)
        await a.close()
        assert await text(also_a, SEEN)
    assert loads == {"a.gguf": 1}


async def test_nothing_is_loaded_before_it_is_asked_but_what_is_wanted_at_the_start(folder: Path, loads: Loads) -> None:
    wanted = given(folder, 0, at_start=lambda name: name == "b")
    async with opened(wanted, of("a"), of("b")) as (a, b):
        await a.ready()  # it would answer
        with pytest.raises(ModelLoading):
            await b.ready()
        async with asyncio.timeout(30):
            while loads != {"b.gguf": 1}:
                await asyncio.sleep(0.01)
        await a.ready()
    assert loads == {"b.gguf": 1}


async def test_who_made_room_is_ready_and_not_loaded_by_the_question(folder: Path, loads: Loads) -> None:
    async with opened(given(folder, 1, at_start=lambda name: True), of("a")) as (a,):
        await text(a, SEEN)
        async with opened(a._options, of("b")) as (b,):
            await text(b, SEEN)
            await a.ready()
    assert loads == {"a.gguf": 1, "b.gguf": 1}


async def test_a_model_that_alone_is_over_the_bound_is_refused_by_the_name_of_the_setting(folder: Path) -> None:
    async with opened(given(folder, 0.9), of("a")) as (a,):
        for _ in range(2):
            with pytest.raises(NotInstalled, match=r"model a: it needs some \d+ MB, and LOQUENT_LLAMA_MEMORY allows"):
                await text(a, SEEN)
        with pytest.raises(NotInstalled, match="LOQUENT_LLAMA_MEMORY"):
            await a.ready()


async def test_a_bound_that_nobody_set_refuses_nothing(folder: Path) -> None:
    async with opened(options(folder, memory=None, context=CONTEXT), of("a")) as (a,):
        assert await text(a, SEEN)
    assert 1 << 26 < machine_memory() < 1 << 50


async def test_one_that_is_answering_is_not_unloaded(folder: Path, loads: Loads) -> None:
    async with opened(given(folder, 1, context=8192), of("a"), of("b")) as (a, b):
        async with aclosing(a.stream(asked("Once", max_tokens=LONG, temperature=1.0))) as answer:
            await anext(answer)
            other = asyncio.create_task(text(b, SEEN))
            await asyncio.sleep(0.2)
            assert not other.done()
            assert not loads.unloaded
            await anext(answer)
        await other  # once the answer has ended
    assert loads.unloaded == ["a.gguf"]


async def test_a_model_that_is_asked_without_a_pause_does_not_keep_another_out(folder: Path) -> None:
    async with opened(given(folder, 1), of("a"), of("b")) as (a, b):
        stop = asyncio.Event()

        async def on_and_on() -> int:
            count = 0
            while not stop.is_set():
                await text(a, asked("Once", max_tokens=40, temperature=1.0))
                count += 1
            return count

        busy = [asyncio.create_task(on_and_on()) for _ in range(SLOTS + 1)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(HOLD + 20):
            await text(b, SEEN)
        stop.set()
        assert min(await asyncio.gather(*busy)) > 0


async def test_eight_at_once_over_two_models_are_all_answered_and_right(folder: Path, loads: Loads) -> None:
    """Room for one, so that each turn of a model is a load; some hang up in the middle."""
    async with opened(given(folder, 1), of("a"), of("b")) as engines:
        alone = [await text(engine, SEEN) for engine in engines]

        async def one(number: int) -> None:
            for turn in range(6):
                which = (number + turn) % 2
                if (number + turn) % 5 == 0:
                    async with aclosing(engines[which].stream(asked("Once", max_tokens=LONG))) as answer:
                        await anext(answer)
                    continue
                assert await text(engines[which], SEEN) == alone[which]

        async with asyncio.timeout(90):
            await asyncio.gather(*map(one, range(8)))
        await all_free(*engines)
    assert loads["a.gguf"] > 1


async def test_who_hangs_up_while_it_is_loaded_leaves_nothing_behind(folder: Path, loads: Loads) -> None:
    async with opened(given(folder, 1, context=8192), of("a"), of("b")) as (a, b):
        async with aclosing(a.stream(asked("Once", max_tokens=LONG, temperature=1.0))) as answer:
            await anext(answer)
            waiting = [asyncio.create_task(text(b, SEEN)) for _ in range(4)]
            await asyncio.sleep(0.05)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert await text(b, SEEN)
        assert await text(a, SEEN)
        assert b._main.place.waiting == 0


async def test_who_waits_longer_than_patience_is_told_when_to_come_again(folder: Path) -> None:
    async with opened(given(folder, 1, context=8192, slots=1), of("a"), of("b")) as (a, b):
        async with aclosing(a.stream(asked("Once", max_tokens=LONG, temperature=1.0))) as answer:
            await anext(answer)
            began = asyncio.get_running_loop().time()
            keep = asyncio.create_task(_drip(answer))
            b._main.patience = 0.5
            with pytest.raises(ModelLoading) as loading:
                await text(b, SEEN)
            assert loading.value.retry_after
            assert asyncio.get_running_loop().time() - began < PATIENCE
            keep.cancel()
            await asyncio.gather(keep, return_exceptions=True)
        assert await text(b, SEEN)


async def _drip(answer: Any) -> None:
    async for _ in answer:
        pass


async def test_closing_while_it_waits_for_room_ends_everything(folder: Path) -> None:
    async with (
        opened(given(folder, 1, context=8192), of("a"), of("b")) as (a, b),
        aclosing(a.stream(asked("Once", max_tokens=LONG, temperature=1.0))) as answer,
    ):
        await anext(answer)
        waiting = asyncio.create_task(text(b, SEEN))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(30):
            await b.close()
        with pytest.raises(Unavailable, match="closed"):
            await waiting
        await anext(answer)


async def test_damaged_weights_make_no_room(folder: Path, loads: Loads) -> None:
    (folder / "b.gguf").write_bytes((folder / "b.gguf").read_bytes()[:200_000])
    async with opened(given(folder, 2.5), of("a"), of("b")) as (a, b):
        await text(a, SEEN)
        with pytest.raises(Unavailable, match=r"b\.gguf.*loquent models pull b"):
            await text(b, SEEN)
        gguf.model(folder / "b.gguf", seed=100)
        assert await text(b, SEEN)
    assert not loads.unloaded


async def test_a_queue_behind_slow_answers_times_out_and_frees_everything(folder: Path) -> None:
    quick = Timeouts(total=0.5)
    async with opened(given(folder, 0, slots=1, context=8192), of("a")) as (a,):
        async with aclosing(a.stream(asked("Once", max_tokens=LONG, temperature=1.0))) as slow:
            await anext(slow)
            behind = [
                asyncio.create_task(text(a, asked("Once", of("a", timeouts=quick), max_tokens=2))) for _ in range(20)
            ]
            late = await asyncio.gather(*behind, return_exceptions=True)
            assert {type(each) for each in late} == {EngineTimeout}
            async with asyncio.timeout(30):
                while a.running() > 1:
                    await asyncio.sleep(0.01)
            assert len(a._main.place.calls) == 1  # the slow one, that is still at it
        await all_free(a)
        assert not a._main.place.calls
        assert await text(a, SEEN)


async def test_an_answer_that_is_too_slow_in_all_is_ended(folder: Path) -> None:
    async with opened(given(folder, 0, slots=1, context=8192), of("a")) as (a,):
        await text(a, SEEN)
        model = of("a", timeouts=Timeouts(total=0.05))
        with pytest.raises(EngineTimeout):
            await text(a, asked((Message("user", "Once"),), model, max_tokens=LONG, temperature=1.0))
        await all_free(a)


@pytest.mark.parametrize("file", ["/etc/hostname", "../a.gguf", "x/../../a.gguf"])
async def test_a_row_names_no_file_outside_the_folder(folder: Path, file: str) -> None:
    from loquent.domain.errors import Misconfigured

    for more in ({"projector": file}, {"adapters": (Adapter(file),)}):
        with pytest.raises(Misconfigured, match="folder of the models"):
            Llama(of("a", **more), given(folder, 0))
