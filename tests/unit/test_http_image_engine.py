"""The HTTP predictor: what it is asked, what it may answer, and what is said of everything else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

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
from loquent.domain.models import BOOLEAN, VISION, Model, Timeouts
from loquent.domain.requests import NOTHING, Message, Picture
from loquent.engines import Options, connect
from loquent.ports.engine import Ask, Chunk
from samples import pictures
from scripted import Caller, Script, hang_up, listening, silent

pytestmark = pytest.mark.anyio

PNG = pictures.plain("PNG")
SEEN = (Message("user", "Is it a cat?", (Picture("image/png", PNG),)),)
KEY = "a-key-of-this-test"


def row(url: str | None, **more: Any) -> Model:
    return Model("cats", "http_image", "cats", frozenset((VISION, BOOLEAN)), **{"url": url, **more})


def answering(body: bytes, status: int = 200, extra: str = "") -> Script:
    async def script(caller: Caller) -> None:
        await caller.answer(body, status, extra=extra)

    return script


async def said(script: Script, path: str = "/predict", *, messages: Any = SEEN, **more: Any) -> tuple[Chunk, Caller]:
    async with listening(script) as (url, upstream):
        model = row(url + path, **more)
        engine = connect(model, Options(Path(), keys={"KEY": KEY}))
        await engine.open()
        try:
            (chunk,) = [each async for each in engine.stream(Ask(model, NOTHING, messages))]
        finally:
            await engine.close()
        return chunk, upstream.seen[0]


@pytest.mark.parametrize(
    ("x", "text"), [("1", "true"), ("0", "false"), ("0.0", "false"), ("0.02", "true"), ("-3", "true")]
)
async def test_the_answer_is_the_boolean_of_the_number(x: str, text: str) -> None:
    chunk, caller = await said(answering(b'{"prediction": [[%s]], "version": 3}' % x.encode()))
    assert (chunk.text, chunk.finish_reason) == (text, "stop")
    assert chunk.usage is not None
    assert chunk.usage.estimated
    assert caller.line == "POST /predict HTTP/1.1"
    assert caller.body == {"image": pictures.base64_of(PNG)}
    assert "authorization" not in caller.headers


@pytest.mark.parametrize(
    ("path", "asked"),
    [("", "/"), ("/", "/"), ("/v1/predict", "/v1/predict"), ("/predict/", "/predict/"), ("/p?model=a", "/p?model=a")],
)
async def test_it_is_asked_exactly_where_the_url_says(path: str, asked: str) -> None:
    _, caller = await said(answering(b'{"prediction": [[true]]}'), path)
    assert caller.line == f"POST {asked} HTTP/1.1"


async def test_a_key_goes_along_where_the_row_names_one() -> None:
    _, caller = await said(answering(b'{"prediction": [[1]]}'), key_env="KEY")
    assert caller.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"true", b"not JSON", b"[[1]]", b"{}", b'{"prediction": 1}', b'{"prediction": []}', b"\xff"),
        *(
            b'{"prediction": [[]]}',
            b'{"prediction": [[1, 2]]}',
            b'{"prediction": [[1], [2]]}',
            b'{"prediction": [["1"]]}',
        ),
        *(b'{"prediction": [[NaN]]}', b'{"prediction": [[null]]}', b'{"prediction": [[1]', b"[" * 100_000),
    ],
)
async def test_what_is_not_one_number_is_a_fault_of_the_engine(body: bytes) -> None:
    with pytest.raises(EngineFailed, match="predictor"):
        await said(answering(body))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((400, Invalid), (401, EngineFailed), (403, EngineFailed), (404, Invalid), (408, EngineTimeout)),
        *((413, TooLarge), (422, Invalid), (429, EngineBusy), (500, Unavailable), (501, EngineFailed)),
        *((503, Unavailable), (301, EngineFailed), (307, EngineFailed), (204, EngineFailed)),
    ],
)
async def test_its_refusals_are_told_in_our_own_terms(status: int, error: type[LoquentError]) -> None:
    body = b'{"error": "you sent a secret"}' if status != 204 else b""
    with pytest.raises(LoquentError) as raised:
        await said(answering(body, status, "Retry-After: 7\r\nLocation: http://127.0.0.1:1/\r\n"))
    assert type(raised.value) is error
    assert "secret" not in raised.value.message
    if status in (429, 503):
        assert getattr(raised.value, "retry_after", None) == 7


@pytest.mark.parametrize(("script", "error"), [(hang_up, Unavailable), (silent, EngineTimeout)])
async def test_one_that_goes_or_is_silent_is_told_so(script: Script, error: type[LoquentError]) -> None:
    with pytest.raises(error):
        await said(script, timeouts=Timeouts(0.2))


async def test_one_that_is_not_there_is_unavailable() -> None:
    async with listening(silent) as (url, _):
        model = row(url)
    engine = connect(model, Options(Path()))
    await engine.open()
    with pytest.raises(Unavailable, match="cannot be reached"):
        [each async for each in engine.stream(Ask(model, NOTHING, SEEN))]
    with pytest.raises(Unavailable):
        await engine.ready()
    await engine.close()


async def test_a_caller_that_goes_frees_the_predictor() -> None:
    async with listening(silent) as (url, upstream):
        model = row(url)
        engine = connect(model, Options(Path()))
        await engine.open()
        task = asyncio.ensure_future(anext(engine.stream(Ask(model, NOTHING, SEEN))))
        async with asyncio.timeout(10):
            await upstream.asked.wait()
            task.cancel()
            await upstream.all_gone.wait()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.close()


async def test_without_a_picture_nothing_is_asked() -> None:
    with pytest.raises(Invalid, match="picture"):
        await said(answering(b"{}"), messages=(Message("user", "Is it a cat?"),))


@pytest.mark.parametrize(
    "model",
    [
        row(None),
        row("ftp://host/x"),
        row("http://user:word@host/"),
        Model("cats", "http_image", "c", url="http://host/"),
    ],
)
async def test_a_row_that_cannot_work_stops_the_start(model: Model) -> None:
    with pytest.raises(Misconfigured, match="cats"):
        await connect(model, Options(Path())).open()
