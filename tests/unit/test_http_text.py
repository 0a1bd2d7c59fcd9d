"""The HTTP generator's own: what is asked of it, and every way in which it can fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from generator_server import BROKEN, Generator, generator_server
from loquent.domain.errors import (
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    Misconfigured,
    TooLarge,
    Unavailable,
)
from loquent.domain.models import TEXT, Model, Timeouts
from loquent.engines import Options, connect
from loquent.ports.engine import Ask, Engine

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with generator_server() as found:
        yield found


def row(url: str | None, **more: object) -> Model:
    known = {
        "name": "ml",
        "engine": "http_text",
        "id": "ml",
        "abilities": frozenset((TEXT,)),
        "timeouts": Timeouts(30),
    }
    return Model(**{**known, "url": url, **more})  # type: ignore[arg-type]


@pytest.fixture
async def engine(generator: Generator) -> AsyncIterator[Engine]:
    opened = connect(row(f"{generator.url}/"), Options(models_dir=Path("nowhere")))
    await opened.open()
    yield opened
    await opened.close()


async def said(engine: Engine, prompt: str, **more: object) -> str:
    asked = Ask(row("http://x", **more), row("").defaults, prompt=prompt)
    return "".join([chunk.text async for chunk in engine.stream(asked)])


async def test_the_prompt_alone_is_asked_and_the_answer_comes_back(engine: Engine, generator: Generator) -> None:
    generator.asked.clear()
    assert await said(engine, 'ünï "two" 漢字') == '漢字 "two" ünï'
    assert generator.asked == [{"prompt": 'ünï "two" 漢字'}]
    assert generator.paths[-1] == "/generateContent", "whatever slash the URL ends with"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, EngineBusy),
        (503, Unavailable),
        (500, Unavailable),
        (502, Unavailable),
        (504, Unavailable),
        (408, EngineTimeout),
        (413, TooLarge),
        (400, Invalid),
        (404, Invalid),
        (422, Invalid),
        (401, EngineFailed),
        (403, EngineFailed),
        (418, EngineFailed),
        (302, EngineFailed),
    ],
)
async def test_its_own_errors_are_ours_with_its_status_and_without_its_words(
    engine: Engine, status: int, kind: type[LoquentError]
) -> None:
    with pytest.raises(kind) as failed:
        await said(engine, f"a secret prompt [status {status}]")
    assert failed.value.engine_status == status
    assert "secret" not in failed.value.message
    if status in (429, 503):
        assert getattr(failed.value, "retry_after", None) == 7


@pytest.mark.parametrize("number", range(len(BROKEN)))
async def test_what_is_no_answer_is_a_fault_of_the_engine(engine: Engine, number: int) -> None:
    with pytest.raises(EngineFailed):
        await said(engine, f"[broken {number}]")
    assert await said(engine, "still there") == "there still"


async def test_one_that_says_that_it_failed_has_failed(engine: Engine) -> None:
    with pytest.raises(EngineFailed):
        await said(engine, "[false]")


async def test_one_that_takes_longer_than_its_row_allows_is_too_slow(engine: Engine) -> None:
    with pytest.raises(EngineTimeout):
        await said(engine, "[slow 1.5]", timeouts=Timeouts(0.5))


async def test_one_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and nobody listens
        engine = connect(row(f"http://127.0.0.1:{probe.getsockname()[1]}"), Options(models_dir=Path("nowhere")))
        await engine.open()
        with pytest.raises(Unavailable) as failed:
            await said(engine, "hello")
        with pytest.raises(Unavailable):
            await engine.ready()
        await engine.close()
    assert failed.value.engine_status is None


async def test_one_that_hangs_up_is_unavailable() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        engine = connect(
            row(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), Options(models_dir=Path("nowhere"))
        )
        await engine.open()
        with pytest.raises(Unavailable):
            await said(engine, "hello")
        await engine.close()


@pytest.mark.parametrize("url", [None, "ftp://host", "http://user:secret@host", "http://"])
async def test_a_row_that_cannot_be_used_stops_the_start(url: str | None) -> None:
    with pytest.raises(Misconfigured, match="model ml") as refused:
        await connect(row(url), Options(models_dir=Path("nowhere"))).open()
    assert "secret" not in refused.value.message


async def test_a_key_that_is_missing_stops_the_start(generator: Generator) -> None:
    with pytest.raises(Misconfigured, match="ML_KEY"):
        await connect(row(generator.url, key_env="ML_KEY"), Options(models_dir=Path("nowhere"))).open()
