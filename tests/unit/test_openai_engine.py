"""The OpenAI engine against every bad server: each fault has its own name, and no connection is lost to it."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as some

from loquent.domain.errors import (
    ContextOverflow,
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    Misconfigured,
    ModelLoading,
    TooLarge,
    Unavailable,
)
from loquent.domain.models import Model, Timeouts
from loquent.domain.requests import Message, Parameters
from loquent.domain.usage import Usage
from loquent.engines import Options
from loquent.engines.openai import OpenAI
from loquent.engines.openai_wire import Streamed, retry_after
from loquent.ports.engine import Ask, Chunk
from scripted import (
    Caller,
    Script,
    Upstream,
    hang_up,
    hang_up_after_the_head,
    listening,
    silent,
    silent_after_the_head,
)

pytestmark = pytest.mark.anyio

KEY = "sk-very-secret-key"
HI = (Message("user", "my private words"),)


@asynccontextmanager
async def serving(
    script: Script, *, tls: ssl.SSLContext | None = None, **more: Any
) -> AsyncIterator[tuple[OpenAI, Upstream]]:
    """An engine that is open, and the server that it calls."""
    async with listening(script, tls=tls) as (url, upstream):
        row = {"name": "public", "url": f"{url}/v1", "key_env": "KEY", **more}
        engine = OpenAI(Model(engine="openai", id="upstream-id", **row), Options(Path(), keys={"KEY": KEY}))
        await engine.open()
        try:
            yield engine, upstream
        finally:
            await engine.close()


def asking(engine: OpenAI, *, streamed: bool = True, prompt: str | None = None, **wanted: Any) -> Any:
    messages = () if prompt is not None else HI
    return engine.stream(Ask(engine._model, Parameters(**wanted), messages, prompt, streamed))


async def heard(engine: OpenAI, **how: Any) -> list[Chunk]:
    return [chunk async for chunk in asking(engine, **how)]


async def fault(engine: OpenAI, **how: Any) -> LoquentError:
    with pytest.raises(LoquentError) as raised:
        await heard(engine, **how)
    assert KEY not in str(raised.value)
    assert "private" not in str(raised.value)
    return raised.value


def event(text: str | None = "hi", *, finish: str | None = None, model: str = "upstream-id", **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    said = {"id": "c1", "object": "chat.completion.chunk", "model": model, "choices": [choice], **more}
    return b"data: " + json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


USAGE = b'data: {"model":"upstream-id","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = (event("", usage=None), event("héllo "), event("wörld 🦜"), event(None, finish="stop"), USAGE, DONE)
WHOLE = json.dumps(
    {
        "model": "upstream-id",
        "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
).encode()


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def payloads(chunks: list[Chunk]) -> list[Any]:
    """The events on the wire, each in the one plain form."""
    *blocks, rest = b"".join(chunk.wire for chunk in chunks).split(b"\n\n")
    assert rest == b""
    assert all(block.startswith(b"data: ") for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


# For 127.0.0.1, until 2126, signed by itself and trusted by nobody.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUiocZKroCRTdD4df
p1k53kmSNb9cEwKvqPVAjEO195ahRANCAASE7Fpjpikr86btN2zTrCeiYOcwsdDM
suImyI6c9/W7+dazy1hhb26jSpEkbh50L+nuPI910GaJYar2idNIuAME
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBljCCATygAwIBAgIUUz7tw9pa6g/Ohrmzmr81J444v0QwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMbG9xdWVudC10ZXN0MCAXDTI2MTEyMjE1NDYyOVoYDzIxMjYx
MDI5MTU0NjI5WjAXMRUwEwYDVQQDDAxsb3F1ZW50LXRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAASE7Fpjpikr86btN2zTrCeiYOcwsdDMsuImyI6c9/W7+daz
y1hhb26jSpEkbh50L+nuPI910GaJYar2idNIuAMEo2QwYjAdBgNVHQ4EFgQUIQBX
i6ZcwDM7QqjH+tikK9Mh2XswHwYDVR0jBBgwFoAUIQBXi6ZcwDM7QqjH+tikK9Mh
2XswDwYDVR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMC
A0gAMEUCIH8wUQH0xIUTlNSv9X8mkHRF60GucdQx6RnNe+ZEbC2hAiEA7gPQRaq4
451NZQPB7Ddan0Mc7zZEuVY+zHKOnKVPFJ0=
-----END CERTIFICATE-----
"""


# What goes well.


async def test_a_whole_answer_is_one_chunk_and_everything_asked_for_goes_upstream() -> None:
    async with serving(lambda caller: caller.answer(WHOLE)) as (engine, upstream):
        (chunk,) = await heard(
            engine, streamed=False, max_tokens=5, temperature=0.0, top_p=0.5, seed=7, stop=("a", "b")
        )
    assert (chunk.text, chunk.finish_reason, chunk.usage) == ("hello", "length", Usage(3, 2))
    (caller,) = upstream.seen
    assert caller.line == "POST /v1/chat/completions HTTP/1.1"
    assert caller.headers["authorization"] == f"Bearer {KEY}"
    assert caller.headers["accept-encoding"] == "identity"
    assert caller.body == {
        "model": "upstream-id",
        "messages": [{"role": "user", "content": "my private words"}],
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["a", "b"],
    }


async def test_a_prompt_goes_to_completions_and_a_trailing_slash_of_the_url_changes_nothing() -> None:
    body = b'{"choices":[{"text":" and on","finish_reason":"stop"}]}'
    async with serving(lambda caller: caller.answer(body)) as (engine, upstream):
        again = OpenAI(Model("m", "openai", "x", url=f"{engine._model.url}/"), Options(Path()))
        await again.open()
        (chunk,) = await heard(again, streamed=False, prompt="on")
        await again.close()
    assert (chunk.text, chunk.usage) == (" and on", None)
    (caller,) = upstream.seen
    assert caller.line == "POST /v1/completions HTTP/1.1"
    assert caller.body == {"model": "x", "prompt": "on"}
    assert "authorization" not in caller.headers


async def test_a_stream_carries_text_and_the_events_themselves_under_the_public_name() -> None:
    async with serving(lambda caller: caller.events(*STREAM)) as (engine, upstream):
        chunks = await heard(engine)
    assert text_of(chunks) == "héllo wörld 🦜"
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1] == Chunk(usage=Usage(3, 2))
    wire = b"".join(chunk.wire for chunk in chunks)
    assert wire == b"".join(STREAM[:4]).replace(b"upstream-id", b"public")
    assert {chunk.dialect for chunk in chunks[:-1]} == {"chat"}
    assert upstream.seen[0].body["stream_options"] == {"include_usage": True}


async def test_a_streamed_completion_says_whose_dialect_it_speaks() -> None:
    said = b'data: {"model":"m","choices":[{"text":"on","finish_reason":"length"}]}\n\n'
    async with serving(lambda caller: caller.events(said, DONE)) as (engine, _):
        chunk = (await heard(engine, prompt="go"))[0]
    assert (chunk.text, chunk.finish_reason, chunk.dialect) == ("on", "length", "completion")


async def test_the_events_are_not_touched_where_the_names_are_the_same() -> None:
    async with serving(lambda caller: caller.events(*STREAM), name="upstream-id") as (engine, _):
        assert b"".join(chunk.wire for chunk in await heard(engine)) == b"".join(STREAM[:4])


async def test_a_caller_who_says_the_name_in_a_message_keeps_it() -> None:
    said = event('"model":"upstream-id" and {"error": "usage"} data: [DONE]'), event(None, finish="stop"), DONE
    async with serving(lambda caller: caller.events(*said)) as (engine, _):
        chunks = await heard(engine)
    assert text_of(chunks) == '"model":"upstream-id" and {"error": "usage"} data: [DONE]'
    assert payloads(chunks)[0]["choices"][0]["delta"]["content"] == text_of(chunks)
    assert {payload["model"] for payload in payloads(chunks)} == {"public"}


@pytest.mark.parametrize("written", ['"model": "upstream-id"', '"model":"upstream\\u002did"', '"model" : "other"'])
async def test_the_name_is_replaced_however_it_is_written(written: str) -> None:
    said = f'data: {{{written},"choices":[{{"delta":{{"content":"x"}},"finish_reason":"stop"}}]}}\n\n'.encode()
    async with serving(lambda caller: caller.events(said, DONE)) as (engine, _):
        chunks = await heard(engine)
    assert payloads(chunks)[0]["model"] == "public"


async def test_usage_inside_the_last_event_is_taken_out_of_it() -> None:
    last = event("x", finish="stop", usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    async with serving(lambda caller: caller.events(last, DONE)) as (engine, _):
        chunks = await heard(engine)
    (payload,) = payloads(chunks)
    assert "usage" not in payload
    assert payload["choices"]
    assert chunks[-1].usage == Usage(1, 1)


async def test_without_usage_upstream_there_is_no_usage() -> None:
    async with serving(lambda caller: caller.events(event("x", finish="stop"), DONE)) as (engine, _):
        assert all(chunk.usage is None for chunk in await heard(engine))


async def test_an_event_without_choices_is_passed_over() -> None:
    empty = b'data: {"choices":[],"model":"upstream-id"}\n\n'
    async with serving(lambda caller: caller.events(empty, *STREAM)) as (engine, _):
        assert text_of(await heard(engine)) == "héllo wörld 🦜"
    async with serving(lambda caller: caller.answer(b'{"choices":[]}')) as (engine, _):
        (chunk,) = await heard(engine, streamed=False)
    assert (chunk.text, chunk.finish_reason) == ("", None)


async def test_one_connection_serves_many_calls() -> None:
    async def script(caller: Caller) -> None:
        await (caller.events(*STREAM) if caller.body.get("stream") else caller.answer(WHOLE))

    async with serving(script) as (engine, upstream):
        for streamed in (True, False, True, False, True):
            await heard(engine, streamed=streamed)
    assert upstream.connections == 1


async def test_tls_is_spoken_to_those_who_are_trusted_and_to_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(caller: Caller) -> None:
        await (caller.events(*STREAM) if caller.body.get("stream") else caller.answer(WHOLE))

    (tmp_path / "both.pem").write_text(CERTIFICATE)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "both.pem")
    async with serving(script, tls=tls) as (engine, upstream):
        assert type(await fault(engine)) is Unavailable
        assert upstream.seen == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "both.pem"))
    async with serving(script, tls=tls) as (engine, upstream):
        for streamed in (True, False, True):
            assert text_of(await heard(engine, streamed=streamed)) == ("héllo wörld 🦜" if streamed else "hello")
        assert upstream.connections == 1


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def script(caller: Caller) -> None:
        await caller.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"".join(STREAM))
        caller.writer.close()

    async with serving(script) as (engine, upstream):
        assert text_of(await heard(engine)) == text_of(await heard(engine))
    assert upstream.connections == 2


async def test_an_early_hint_is_not_the_answer() -> None:
    async def script(caller: Caller) -> None:
        await caller.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await caller.answer(WHOLE)

    async with serving(script) as (engine, _):
        assert text_of(await heard(engine, streamed=False)) == "hello"


# How events may come.


def streamed(pieces: list[bytes]) -> tuple[str, bytes, Usage | None]:
    answered = Streamed("chat", "upstream-id")
    chunks = [chunk for piece in pieces if (chunk := answered.take(piece))]
    if not answered.is_over and (chunk := answered.end()):
        chunks.append(chunk)
    return text_of(chunks), b"".join(chunk.wire for chunk in chunks), answered.usage


PLAIN = b"".join(STREAM)
FORMS = {
    "plain": PLAIN,
    "crlf": PLAIN.replace(b"\n", b"\r\n"),
    "cr": PLAIN.replace(b"\n", b"\r"),
    "bom": b"\xef\xbb\xbf" + PLAIN,
    "comments": b": hello\n\n" + PLAIN.replace(b"data: ", b": PROCESSING\nid: 1\nevent: message\ndata:"),
    "lines": PLAIN.replace(b'"choices":', b'\ndata: "choices":'),
    "gaps": PLAIN.replace(b"\n\n", b"\n\n\n\n"),
    "no end": PLAIN.removesuffix(b"\n\n"),
    "no done": PLAIN.removesuffix(DONE),
}


@pytest.mark.parametrize("form", FORMS)
def test_events_may_be_written_in_any_form_and_split_at_any_byte(form: str) -> None:
    whole = FORMS[form]
    expected = streamed([PLAIN])
    assert expected[0] == "héllo wörld 🦜"
    for at in range(len(whole) + 1):
        text, wire, usage = streamed([whole[:at], whole[at:]])
        assert (text, usage) == (expected[0], expected[2])
        assert form == "lines" or wire == expected[1]
        assert len(payloads([Chunk(wire=wire)])) == 4
    assert streamed([whole[n : n + 1] for n in range(len(whole))])[0] == expected[0]


@given(some.lists(some.integers(0, len(PLAIN)), max_size=12), some.sampled_from(sorted(FORMS)))
def test_events_may_be_split_at_any_bytes(cuts: list[int], form: str) -> None:
    whole = FORMS[form]
    at = [0, *sorted(cut for cut in cuts if cut <= len(whole)), len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(at)]
    assert streamed(pieces)[0] == "héllo wörld 🦜"


@given(some.binary(max_size=300))
def test_any_bytes_are_an_answer_or_an_engine_that_failed(data: bytes) -> None:
    try:
        streamed([data])
    except LoquentError as refused:
        assert isinstance(refused, EngineFailed)


# What goes badly: refusals.


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(
    ("status", "error", "meaning"),
    [
        (400, {"message": "bad temperature"}, Invalid),
        (400, {"message": "too long", "code": "context_length_exceeded"}, ContextOverflow),
        (400, {"message": "too long", "code": 400, "type": "exceed_context_size_error"}, ContextOverflow),
        (400, {"message": "This model's maximum context length is 10 tokens."}, ContextOverflow),
        (401, {"message": f"Incorrect API key provided: {KEY}"}, EngineFailed),
        (403, {"message": "no"}, EngineFailed),
        (404, {"message": "no such model"}, Invalid),
        (408, {}, EngineTimeout),
        (413, {}, TooLarge),
        (418, {}, EngineFailed),
        (422, {"message": "x" * 10_000}, Invalid),
        (429, {"message": "slow down"}, EngineBusy),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, EngineFailed),
        (500, {"message": f"oops {KEY}"}, Unavailable),
        (501, {}, EngineFailed),
        (502, {}, Unavailable),
        (503, {"message": "Loading model", "type": "unavailable_error", "code": 503}, ModelLoading),
        (503, {}, Unavailable),
        (504, {}, Unavailable),
        (529, {}, Unavailable),
        (204, {}, EngineFailed),
    ],
)
async def test_each_refusal_has_its_meaning(status: int, error: dict[str, Any], meaning: type, is_stream: bool) -> None:
    body = json.dumps({"error": error}).encode() if status != 204 else b""
    async with serving(lambda caller: caller.answer(body, status)) as (engine, _):
        refused = await fault(engine, streamed=is_stream)
    assert type(refused) is meaning
    assert len(refused.message) < 400


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"error":"short"}', b'{"error":"\xff"}', b'{"detail":[{"x":1}]}', b"[1]", b"7", b"[" * 9999],
)
async def test_a_refusal_may_have_any_body(body: bytes) -> None:
    async with serving(lambda caller: caller.answer(body, 400)) as (engine, _):
        assert type(await fault(engine, streamed=False)) is Invalid


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Retry-After: 7\r\n", 7.0),
        ("Retry-After: 1.5\r\n", 1.5),
        ("Retry-After: 9\r\nRetry-After-Ms: 250\r\n", 0.25),
        ("Retry-After: soon\r\n", None),
        ("Retry-After: 9" + "9" * 400 + "\r\n", None),
        ("Retry-After: 99999999\r\n", 86_400.0),
        ("Retry-After-Ms: nan\r\n", None),
        ("Retry-After-Ms: -5\r\n", 0.0),
        ("", None),
    ],
)
async def test_a_busy_engine_says_how_long_to_wait(header: str, seconds: float | None) -> None:
    async with serving(lambda caller: caller.answer(b"{}", 429, extra=header)) as (engine, _):
        refused = await fault(engine)
    assert isinstance(refused, EngineBusy)
    assert refused.retry_after == seconds


def test_the_time_to_wait_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True).encode()
    assert 25 < (retry_after({b"retry-after": date}) or 0) <= 30
    assert retry_after({b"retry-after": b"Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({b"retry-after": b"Wed, 99 Foo 2015 07:28:00 GMT"}) is None


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_redirect_is_refused_and_the_key_does_not_travel(status: int, is_stream: bool) -> None:
    async with serving(lambda caller: caller.answer(WHOLE)) as (other, elsewhere):
        where = f"Location: {other._model.url}/chat/completions\r\n"
        async with serving(lambda caller: caller.answer(b"", status, extra=where)) as (engine, _):
            refused = await fault(engine, streamed=is_stream)
    assert type(refused) is EngineFailed
    assert elsewhere.seen == []


# What goes badly: the connection.


async def test_a_name_that_does_not_resolve_is_away() -> None:
    for url in ("http://no-such-host.invalid/v1", "http://127.0.0.1:1/v1", f"http://{'a' * 70}.example/v1"):
        engine = OpenAI(Model("m", "openai", "x", url=url), Options(Path()))
        await engine.open()
        refused = await fault(engine)
        assert type(refused) is Unavailable
        assert "127.0.0.1" not in refused.message
        with pytest.raises(Unavailable):
            await engine.ready()
        await engine.close()


async def test_a_server_without_tls_is_away_for_https() -> None:
    async with serving(lambda caller: caller.answer(WHOLE)) as (engine, _):
        url = f"{engine._model.url}".replace("http", "https")
        engine = OpenAI(Model("m", "openai", "x", url=url, timeouts=Timeouts(connect=0.2)), Options(Path()))
        await engine.open()
        assert type(await fault(engine)) is Unavailable
        await engine.close()


async def hang_up_after_an_event(caller: Caller) -> None:
    await caller.begin()
    await caller.chunk(event("hello"))
    await asyncio.sleep(0.02)
    caller.reset()


@pytest.mark.parametrize("script", [hang_up, hang_up_after_the_head, hang_up_after_an_event])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_server_that_hangs_up_is_away(script: Script, is_stream: bool) -> None:
    async with serving(script) as (engine, upstream):
        assert type(await fault(engine, streamed=is_stream)) is Unavailable
    assert upstream.connections == 1


async def test_what_came_before_the_end_is_passed_on() -> None:
    async with serving(hang_up_after_an_event) as (engine, _):
        stream = asking(engine)
        assert (await anext(stream)).text == "hello"
        with pytest.raises(Unavailable):
            await anext(stream)


async def test_a_kept_connection_that_was_closed_meanwhile_is_not_the_callers_fault() -> None:
    async def script(caller: Caller) -> None:
        if len(upstream.seen) == 2:
            caller.reset()  # as a server does that had just given up waiting
        else:
            await caller.answer(WHOLE)

    async with serving(script) as (engine, upstream):
        for _ in range(2):
            assert text_of(await heard(engine, streamed=False)) == "hello"
    assert (len(upstream.seen), upstream.connections) == (3, 2)


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async def script(caller: Caller) -> None:
        await caller.answer(WHOLE)
        await caller.answer(WHOLE)

    async with serving(script) as (engine, upstream):
        for _ in range(2):
            with_luck = heard(engine, streamed=False)  # the second answer may come in the same packet, or after
            assert await asyncio.gather(with_luck, return_exceptions=True)
            await asyncio.wait_for(upstream.all_gone.wait(), 5)
    assert upstream.connections == 2


async def silent_after_an_event(caller: Caller) -> None:
    await caller.begin()
    await caller.chunk(event("hello"))
    await silent(caller)


async def chattering(caller: Caller) -> None:
    await caller.begin()
    while True:
        await caller.chunk(b": still here\n\n")
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("script", [silent, silent_after_the_head, silent_after_an_event, chattering])
async def test_a_silent_stream_is_too_slow_at_every_stage(script: Script) -> None:
    async with serving(script, timeouts=Timeouts(0.2 if script is chattering else 300.0, 0.05, 0.05)) as (
        engine,
        upstream,
    ):
        assert type(await fault(engine)) is EngineTimeout
        await asyncio.wait_for(upstream.all_gone.wait(), 5)


@pytest.mark.parametrize("script", [silent, silent_after_the_head, silent_after_an_event])
async def test_a_whole_answer_is_bounded_by_the_rows_timeout(script: Script) -> None:
    async with serving(script, timeouts=Timeouts(0.05)) as (engine, upstream):
        assert type(await fault(engine, streamed=False)) is EngineTimeout
        await asyncio.wait_for(upstream.all_gone.wait(), 5)


async def test_a_caller_who_is_slow_to_take_is_not_the_engines_silence() -> None:
    async with serving(lambda caller: caller.events(*STREAM), timeouts=Timeouts(300.0, 0.05, 0.05)) as (engine, _):
        chunks = []
        async for chunk in asking(engine):
            chunks.append(chunk)
            await asyncio.sleep(0.1 if len(chunks) == 1 else 0)
    assert text_of(chunks) == "héllo wörld 🦜"


# What goes badly: the answer.


@pytest.mark.parametrize(
    "body",
    [
        WHOLE[:40],
        WHOLE + WHOLE,
        b"",
        b"null",
        b'{"choices":[{"message":{"content":7}}]}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        b"\xff\xfe",
        b"[" * 99_999,
    ],
)
async def test_an_answer_that_cannot_be_read_is_a_failure(body: bytes) -> None:
    async with serving(lambda caller: caller.answer(body)) as (engine, _):
        assert type(await fault(engine, streamed=False)) is EngineFailed


@pytest.mark.parametrize(
    "said",
    [
        b'data: {"choices":[{"de\n\n',
        b"data: {}{}\n\n",
        b"data: hello\n\n",
        b"data: 1\n\n",
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
    ],
)
async def test_an_event_that_cannot_be_read_is_a_failure_and_is_not_passed_on(said: bytes) -> None:
    async with serving(lambda caller: caller.events(event("a"), said, DONE)) as (engine, _):
        wire = b""
        with pytest.raises(EngineFailed):
            async for chunk in asking(engine):
                wire += chunk.wire
    assert said not in wire


async def test_a_stream_without_an_end_was_cut() -> None:
    async with serving(lambda caller: caller.events(event("a"), event("b"))) as (engine, _):
        assert "cut" in (await fault(engine)).message
    async with serving(lambda caller: caller.events()) as (engine, _):
        assert type(await fault(engine)) is EngineFailed


async def test_a_stream_that_gave_its_reason_needs_no_done() -> None:
    async with serving(lambda caller: caller.events(*STREAM[:-1])) as (engine, _):
        assert (await heard(engine))[-1].usage == Usage(3, 2)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (b'data: {"error":{"message":"out of memory","type":"server_error"}}\n\n', EngineFailed),
        (b'data: {"error": {"message":"too long","code":"context_length_exceeded"}}\n\n', ContextOverflow),
        (b'data: {"error":{"message":"later","code":429}}\n\n', EngineBusy),
        (b'event: error\ndata: {"error":"gone"}\n\n', EngineFailed),
        (b'error: {"error":{"code":500,"message":"x"}}\n\n', Unavailable),
    ],
)
async def test_an_error_inside_a_stream_is_ours(said: bytes, meaning: type) -> None:
    async with serving(lambda caller: caller.events(event("a"), said)) as (engine, _):
        stream = asking(engine)
        with pytest.raises(LoquentError) as refused:
            wire = b"".join([chunk.wire async for chunk in stream])
            assert b"error" not in wire
    assert type(refused.value) is meaning


async def test_an_error_in_a_successful_answer_is_one() -> None:
    async with serving(lambda caller: caller.answer(b'{"error":{"message":"no"}}')) as (engine, _):
        assert type(await fault(engine, streamed=False)) is EngineFailed


@pytest.mark.parametrize("kind", ["text/html", "application/json", ""])
async def test_a_stream_of_another_type_is_a_failure(kind: str) -> None:
    async with serving(lambda caller: caller.answer(WHOLE, kind=kind)) as (engine, _):
        assert type(await fault(engine)) is EngineFailed


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_compressed_answer_is_refused_unopened(is_stream: bool) -> None:
    bomb = gzip.compress(b"0" * 100_000_000, 1)
    kind = "text/event-stream" if is_stream else "application/json"

    async def script(caller: Caller) -> None:
        await caller.answer(bomb, kind=kind, extra="Content-Encoding: gzip\r\n")

    async with serving(script) as (engine, _):
        before = psutil.Process().memory_info().rss
        assert type(await fault(engine, streamed=is_stream)) is EngineFailed
        assert psutil.Process().memory_info().rss - before < 50_000_000


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_line_without_an_end_is_cut_off_in_bounded_memory(is_stream: bool) -> None:
    sent = 0

    async def script(caller: Caller) -> None:
        nonlocal sent
        await caller.begin("text/event-stream" if is_stream else "application/json")
        for _ in range(100):
            await caller.chunk(b"x" * 1_000_000)
            sent += 1

    async with serving(script) as (engine, upstream):
        before = psutil.Process().memory_info().rss
        assert type(await fault(engine, streamed=is_stream)) is EngineFailed
        assert psutil.Process().memory_info().rss - before < 150_000_000
        await asyncio.wait_for(upstream.all_gone.wait(), 5)
    assert sent < 50


async def test_headers_without_an_end_and_what_is_not_http_are_failures() -> None:
    async def endless(caller: Caller) -> None:
        await caller.send(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 50_000)
        await silent(caller)

    async def something_else(caller: Caller) -> None:
        await caller.send(b"220 smtp.example ESMTP\r\n")
        await silent(caller)

    for script in (endless, something_else):
        async with serving(script) as (engine, _):
            assert type(await fault(engine)) is EngineFailed


async def test_a_fast_server_waits_for_a_slow_taker() -> None:
    sent = 0

    async def script(caller: Caller) -> None:
        nonlocal sent
        await caller.begin()
        for _ in range(2000):
            await caller.chunk(event("x" * 50_000))
            sent += 1
        await caller.chunk(event(None, finish="stop") + DONE)
        await caller.send(b"0\r\n\r\n")

    async with serving(script) as (engine, _), aclosing(asking(engine)) as stream:
        await anext(stream)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert sent < 1000  # 100 MB in all; what fits the buffers of two sockets is a few
        total = len((await anext(stream)).text)
        async for chunk in stream:
            total += len(chunk.text)
    assert total >= 1990 * 50_000


# Hanging up, and the pool.


async def test_closing_the_stream_hangs_up_at_once() -> None:
    async with serving(silent_after_an_event) as (engine, upstream):
        stream = asking(engine)
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(upstream.all_gone.wait(), 1)


@pytest.mark.parametrize("script", [silent, silent_after_the_head])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_cancelled_call_hangs_up_at_once(script: Script, is_stream: bool) -> None:
    async with serving(script) as (engine, upstream):
        task = asyncio.create_task(heard(engine, streamed=is_stream))
        await upstream.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(upstream.all_gone.wait(), 1)


async def test_the_pool_is_whole_after_fifty_failures() -> None:
    ways: list[Script] = [
        hang_up,
        hang_up_after_an_event,
        silent,
        silent_after_an_event,
        lambda caller: caller.answer(b"{}", 500),
        lambda caller: caller.answer(WHOLE[:10]),
        lambda caller: caller.events(event("a"), b"data: {\n\n", event("b")),
        lambda caller: caller.events(event("a"), b'data: {"error":{"message":"x"}}\n\n'),
        lambda caller: caller.answer(b"<html>", kind="text/html"),
        lambda caller: caller.answer(b"", 301, extra="Location: /\r\n"),
    ]

    async def script(caller: Caller) -> None:
        number = len(upstream.seen) - 1
        if number < 50:
            await ways[number % len(ways)](caller)
        else:
            await (caller.events(*STREAM) if caller.body.get("stream") else caller.answer(WHOLE))

    async with serving(script, timeouts=Timeouts(2.0, 0.05, 0.05)) as (engine, upstream):
        while len(upstream.seen) < 50:
            try:
                await heard(engine)
            except LoquentError:
                continue
        assert engine._server is not None
        assert sum(not connection._done for connection in engine._server.connections) == 0
        answers = await asyncio.gather(*(heard(engine, streamed=n % 2 == 0) for n in range(20)))
        assert {text_of(chunks) for chunks in answers} == {"héllo wörld 🦜", "hello"}
        await engine.close()
        await asyncio.wait_for(upstream.all_gone.wait(), 5)


async def test_closing_the_engine_ends_what_is_running_and_may_come_twice() -> None:
    async with serving(silent_after_an_event) as (engine, upstream):
        stream = asking(engine)
        await anext(stream)
        await engine.close()
        await engine.close()
        with pytest.raises(Unavailable):
            await anext(stream)
        assert type(await fault(engine)) is Unavailable
        await asyncio.wait_for(upstream.all_gone.wait(), 5)


# Being ready, and being set up.


async def test_ready_asks_only_where_nothing_was_heard() -> None:
    async with serving(lambda caller: caller.answer(WHOLE)) as (engine, upstream):
        await engine.ready()
        await engine.ready()
        await heard(engine, streamed=False)
        await engine.ready()
    assert [caller.line for caller in upstream.seen] == [
        "GET /v1/models HTTP/1.1",
        "POST /v1/chat/completions HTTP/1.1",
    ]


@pytest.mark.parametrize(("status", "is_ready"), [(200, True), (404, True), (401, False), (503, False)])
async def test_ready_is_what_the_list_of_models_says(status: int, is_ready: bool) -> None:
    async with serving(lambda caller: caller.answer(b"{}", status)) as (engine, _):
        if is_ready:
            await engine.ready()
        else:
            with pytest.raises(Unavailable):
                await engine.ready()


@pytest.mark.parametrize(
    ("row", "keys", "says"),
    [
        ({"url": None}, {}, "needs a url"),
        ({"url": "ftp://host/v1"}, {}, "url takes"),
        ({"url": "http:///v1"}, {}, "url takes"),
        ({"url": "http://user:hush@host/v1"}, {}, "url takes"),
        ({"url": "http://host:99999/v1"}, {}, "url takes"),
        ({"url": "http://ho st/v1"}, {}, "url takes"),
        ({"url": "http://host/v1", "key_env": "KEY"}, {}, "KEY holds no key"),
        ({"url": "http://host/v1", "key_env": "KEY"}, {"KEY": "hush\r\nX: y"}, "Authorization"),
    ],
)
async def test_a_row_that_cannot_work_stops_the_start(row: dict[str, Any], keys: dict[str, str], says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as refused:
        await OpenAI(Model("m", "openai", "x", **row), Options(Path(), keys=keys)).open()
    assert "hush" not in refused.value.message


async def test_openai_itself_is_asked_in_its_newer_words() -> None:
    model = Model("m", "openai", "gpt", url="https://api.openai.com/v1")
    body = OpenAI(model, Options(Path()))._body(Ask(model, Parameters(max_tokens=3), HI, streamed=False))
    assert json.loads(body)["max_completion_tokens"] == 3
    assert b'"max_tokens"' not in body


async def test_half_a_character_is_the_askers_fault() -> None:
    async with serving(lambda caller: caller.answer(WHOLE)) as (engine, upstream):
        for is_stream in (True, False):
            assert type(await fault(engine, streamed=is_stream, prompt="\ud800")) is Invalid
        assert upstream.seen == []


async def test_an_error_in_a_successful_answer_does_not_tell_the_key_either() -> None:
    said = json.dumps({"error": {"message": f"no {KEY}", "code": 500}}).encode()

    async def script(caller: Caller) -> None:
        await (caller.events(b"data: %s\n\n" % said) if caller.body.get("stream") else caller.answer(said))

    async with serving(script) as (engine, _):
        for is_stream in (True, False):
            assert type(await fault(engine, streamed=is_stream)) is Unavailable
