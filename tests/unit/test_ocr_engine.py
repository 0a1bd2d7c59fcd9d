"""Text recognition: the words in real pictures, in the order of reading, and a process that is always looked after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from loquent.domain.errors import EngineBusy, EngineFailed, EngineTimeout, Invalid, Unavailable
from loquent.domain.models import VISION, Model, Timeouts
from loquent.domain.requests import NOTHING, Message, Parameters, Picture
from loquent.engines import Options, connect, is_installed, ocr, ocr_child
from loquent.ports.engine import Ask, Engine
from samples import pictures

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180), pytest.mark.xdist_group("ocr")]

MODEL = Model("reader", "ocr", "ocr", frozenset((VISION,)))
NO_TEXT = "No text was found in the picture."


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[Engine]:
    """One whose process is started once: it takes seconds."""
    found = connect(MODEL, Options(Path(), threads=1))
    await found.open()
    yield found
    await found.close()


async def read(engine: Engine, data: bytes, *, model: Model = MODEL, **wanted: object) -> str:
    shown = Message("user", "What is written here?", (Picture("image/png", data),))
    parameters = Parameters(**wanted) if wanted else NOTHING  # type: ignore[arg-type]
    return "".join([chunk.text async for chunk in engine.stream(Ask(model, parameters, (shown,)))])


def processes() -> list[psutil.Process]:
    alive = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in alive if "loquent.engines.ocr_child" in each.cmdline()]


async def test_the_words_in_a_picture_are_read_line_by_line(engine: Engine) -> None:
    assert await read(engine, pictures.text()) == "\n".join(pictures.LINES)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
async def test_every_kind_that_is_kept_is_read(engine: Engine, kind: str) -> None:
    image = pictures.opened(pictures.text(("Total 47.50",))).convert("RGB")
    assert await read(engine, pictures.written(image, kind)) == "Total 47.50"


async def test_words_on_transparent_ground_are_read(engine: Engine) -> None:
    image = pictures.opened(pictures.text(("Harbour",))).convert("L")
    clear = pictures.scene(*image.size, mode="RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, *image.size))
    clear.paste((0, 0, 0, 255), mask=image.point(lambda value: 255 - value))
    assert await read(engine, pictures.written(clear, "PNG")) == "Harbour"


async def test_a_picture_without_words_is_told_so(engine: Engine) -> None:
    assert await read(engine, pictures.blank()) == NO_TEXT


async def test_a_stop_string_is_kept_to(engine: Engine) -> None:
    assert await read(engine, pictures.text(), stop=("anybody",)) == f"{pictures.LINES[0]}\nwas built before "


@pytest.mark.parametrize("data", [b"", b"nonsense", pictures.plain("PNG")[:60], pictures.plain("TIFF")])
async def test_what_is_no_picture_is_refused_and_the_next_is_read(engine: Engine, data: bytes) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        await read(engine, data)
    assert await read(engine, pictures.blank()) == NO_TEXT


async def test_without_a_picture_there_is_nothing_to_read(engine: Engine) -> None:
    with pytest.raises(Invalid, match="picture"):
        await anext(engine.stream(Ask(MODEL, NOTHING, (Message("user", "Hello"),))))


async def test_a_caller_that_goes_ends_the_work_and_the_next_is_served(engine: Engine) -> None:
    await read(engine, pictures.blank())
    (before,) = processes()
    task = asyncio.create_task(read(engine, pictures.text(("word " * 8,) * 30)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not before.is_running()
    assert processes() == []
    assert await read(engine, pictures.blank()) == NO_TEXT


async def test_one_that_waits_its_turn_costs_nobody_the_process(engine: Engine) -> None:
    await read(engine, pictures.blank())
    (before,) = processes()
    first = asyncio.create_task(read(engine, pictures.text()))
    second = asyncio.create_task(read(engine, pictures.text()))
    await asyncio.sleep(0.01)
    second.cancel()
    assert await first == "\n".join(pictures.LINES)
    assert processes() == [before]


async def test_a_process_that_dies_is_a_fault_of_this_picture_alone(engine: Engine) -> None:
    await read(engine, pictures.blank())
    (process,) = processes()
    task = asyncio.create_task(read(engine, pictures.text(("word " * 8,) * 30)))
    await asyncio.sleep(0.1)
    process.kill()
    with pytest.raises(EngineFailed, match="broke down"):
        await task
    assert await read(engine, pictures.blank()) == NO_TEXT


async def test_a_process_that_died_in_between_is_started_anew(engine: Engine) -> None:
    await read(engine, pictures.blank())
    (process,) = processes()
    process.kill()
    async with asyncio.timeout(10):
        while processes():
            await asyncio.sleep(0.01)
    await asyncio.gather(read(engine, pictures.blank()), return_exceptions=True)  # it may not be known yet
    assert await read(engine, pictures.blank()) == NO_TEXT


async def test_what_takes_too_long_is_ended() -> None:
    hasty = Model("reader", "ocr", "ocr", frozenset((VISION,)), timeouts=Timeouts(0.05))
    engine = connect(hasty, Options(Path(), threads=1))
    await engine.open()
    before = processes()
    with pytest.raises(EngineTimeout):
        await read(engine, pictures.text(), model=hasty)
    assert processes() == before
    await engine.close()


async def test_too_many_at_once_are_told_to_come_later() -> None:
    engine = connect(MODEL, Options(Path(), threads=1))
    await engine.open()
    tasks = [asyncio.create_task(read(engine, pictures.blank())) for _ in range(ocr.MOST_WAITING + 1)]
    async with asyncio.timeout(10):
        with pytest.raises(EngineBusy):
            await tasks[-1]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await engine.close()


async def test_a_closed_engine_reads_nothing_and_leaves_no_process() -> None:
    engine = connect(MODEL, Options(Path(), threads=1))
    await engine.open()
    before = processes()
    task = asyncio.create_task(read(engine, pictures.text()))
    await asyncio.sleep(0.1)
    await engine.close()
    with pytest.raises(Unavailable, match="closed"):
        await task
    assert processes() == before
    with pytest.raises(Unavailable, match="closed"):
        await read(engine, pictures.text())


def test_the_models_come_with_the_package_and_nothing_is_fetched() -> None:
    assert is_installed("ocr")
    for event in ("socket.connect", "socket.getaddrinfo"):
        with pytest.raises(PermissionError, match=event):
            ocr_child.guard(event, ())


Box = tuple[float, float, float, float]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([], ""),
        ([((0, 0, 50, 10), "one")], "one"),
        ([((0, 40, 50, 50), "below"), ((0, 0, 50, 10), "above")], "above\nbelow"),
        ([((60, 0, 90, 10), "right"), ((0, 2, 50, 12), "left")], "left right"),
        ([((60, 8, 90, 18), "9.50"), ((0, 0, 50, 10), "Tea"), ((0, 12, 50, 22), "Bun")], "Tea\nBun 9.50"),
        ([((0, 0, 50, 30), "Large"), ((60, 10, 90, 20), "small")], "Large small"),
    ],
)
def test_pieces_are_read_in_rows(found: list[tuple[Box, str]], text: str) -> None:
    assert ocr.in_rows(found) == text
