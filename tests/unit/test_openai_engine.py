"""The OpenAI engine against every bad server: each fault has its own name, and no connection is lost to it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import ssl
from array import array
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

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
from loquent.domain.requests import NONE, REQUIRED, Message, Parameters, Tool, ToolCall
from loquent.domain.usage import Usage
from loquent.engines import Options
from loquent.engines.openai import OpenAI
from loquent.engines.openai_wire import Streamed, answer
from loquent.engines.refusals import retry_after
from loquent.ports.engine import Ask, CallPiece, Chunk
from samples import certificate
from scripted import (
    Caller,
    Script,
    Upstream,
    listening,
    silent,
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

    tls, trusted = certificate.listener(tmp_path)
    async with serving(script, tls=tls) as (engine, upstream):
        assert type(await fault(engine)) is Unavailable
        assert upstream.seen == []
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
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


# Tools, thoughts, likelihoods and vectors.

WEATHER = Tool("get_weather", "of a city", {"type": "object", "properties": {"city": {"type": "string"}}}, strict=True)
CALL = ToolCall("call_1", "get_weather", '{"city":"Paris"}')


def sent(ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(OpenAI(ask.model, Options(Path()))._body(ask))
    return body


ROW = Model("public", "openai", "upstream-id", url="http://host/v1")


def test_tools_and_what_they_gave_back_are_sent_in_its_words() -> None:
    said = (
        Message("user", "What is it like there?"),
        Message("assistant", "", calls=(CALL,)),
        Message("tool", "rain", call_id="call_1"),
    )
    body = sent(Ask(ROW, Parameters(), said, None, False, (WEATHER, Tool("clock")), REQUIRED, parallel_calls=False))
    function = {"name": "get_weather", "arguments": '{"city":"Paris"}'}
    assert body["messages"] == [
        {"role": "user", "content": "What is it like there?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    ]
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "of a city",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
                "strict": True,
            },
        },
        {"type": "function", "function": {"name": "clock"}},
    ]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)


@pytest.mark.parametrize(
    ("how", "choice"),
    [
        ({}, None),
        ({"tool_choice": NONE}, "none"),
        ({"tool": "get_weather"}, {"type": "function", "function": {"name": "get_weather"}}),
    ],
)
def test_a_choice_of_tools_is_said_where_it_changes_something(how: dict[str, Any], choice: Any) -> None:
    assert sent(Ask(ROW, Parameters(), HI, tools=(WEATHER,), **how)).get("tool_choice") == choice
    assert "tool_choice" not in sent(Ask(ROW, Parameters(), HI, **how))


def test_likelihoods_and_effort_are_asked_for_in_the_words_of_each_path() -> None:
    wanted = Parameters(logprobs=2, reasoning_effort="low")
    chat, completion = sent(Ask(ROW, wanted, HI)), sent(Ask(ROW, wanted, prompt="a"))
    assert (chat["logprobs"], chat["top_logprobs"], chat["reasoning_effort"]) == (True, 2, "low")
    assert completion["logprobs"] == 2
    assert completion.keys().isdisjoint({"top_logprobs", "reasoning_effort"})
    assert "top_logprobs" not in sent(Ask(ROW, Parameters(logprobs=0), HI))
    assert sent(Ask(ROW, Parameters(logprobs=0), prompt="a"))["logprobs"] == 0


def deltas(*said: dict[str, Any], name: str = "delta") -> list[Chunk]:
    """The chunks of a stream of these, an event a read."""
    answered = Streamed("chat", "m")
    events = ({"model": "m", "choices": [{name: one}] if name else [one]} for one in said)
    return [chunk for one in events if (chunk := answered.take(b"data: " + json.dumps(one).encode() + b"\n\n"))]


def test_calls_come_piece_by_piece_beside_text_and_their_events_pass_untouched() -> None:
    begin = {"index": 0, "id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    other = {"index": 1, "id": "c2", "function": {"name": "clock", "arguments": "{}"}}
    more = {"index": 0, "function": {"arguments": '{"model":"m"}'}}
    chunks = deltas({"content": "hm", "tool_calls": [begin]}, {"tool_calls": [other, more]})
    assert [chunk.text for chunk in chunks] == ["hm", ""]
    assert [piece for chunk in chunks for piece in chunk.calls] == [
        CallPiece(0, "c1", "get_weather"),
        CallPiece(1, "c2", "clock", "{}"),
        CallPiece(0, arguments='{"model":"m"}'),
    ]
    assert payloads(chunks)[1]["choices"][0]["delta"]["tool_calls"] == [other, more]


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}])
def test_calls_that_nobody_numbered_are_told_apart_by_their_ids(index: dict[str, Any]) -> None:
    one = {"id": "c1", "function": {"name": "clock", "arguments": "{"}, **index}
    two = {"id": "c2", "function": {"name": "clock", "arguments": "{}"}, **index}
    chunks = deltas(
        {"tool_calls": [one]}, {"tool_calls": [{"function": {"arguments": "}"}, **index}]}, {"tool_calls": [two]}
    )
    assert [piece.index for chunk in chunks for piece in chunk.calls] == [0, 0, 1]
    both = json.dumps({"choices": [{"message": {"tool_calls": [one, two]}}]}).encode()
    assert [piece.index for piece in answer(both, "", "m").calls] == [0, 1]


async def test_an_answer_of_calls_alone_has_an_empty_text() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    said = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    async with serving(lambda caller: caller.answer(json.dumps(said).encode())) as (engine, _):
        (chunk,) = await heard(engine, streamed=False)
    assert (chunk.text, chunk.finish_reason) == ("", "tool_calls")
    assert chunk.calls == (CallPiece(0, "call_1", "get_weather", '{"city":"Paris"}'),)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_thoughts_under_either_name(name: str) -> None:
    chunks = deltas({name: "let me "}, {name: "see", "content": ""}, {"content": "yes"})
    assert ["".join(part) for part in zip(*((c.reasoning, c.text) for c in chunks), strict=True)] == [
        "let me see",
        "yes",
    ]
    whole = answer(json.dumps({"choices": [{"message": {"content": "yes", name: "let me see"}}]}).encode(), "", "m")
    assert (whole.text, whole.reasoning) == ("yes", "let me see")


def test_a_refusal_in_the_models_own_words_is_text() -> None:
    assert text_of(deltas({"refusal": "I "}, {"refusal": "cannot"})) == "I cannot"
    assert answer(b'{"choices":[{"message":{"content":null,"refusal":"no"}}]}', "", "m").text == "no"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *(("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("content_filter", "content_filter")),
        *(("function_call", "tool_calls"), ("eos", "stop"), ("max_tokens", "length")),
    ],
)
def test_each_finish_reason_is_one_of_ours(theirs: str, ours: str) -> None:
    assert (
        answer(json.dumps({"choices": [{"text": "a", "finish_reason": theirs}]}).encode(), "", "m").finish_reason
        == ours
    )


def test_tokens_that_count_apart_are_counted() -> None:
    used = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    }
    used["completion_tokens_details"] = {"reasoning_tokens": 3}
    body = json.dumps({"choices": [], "usage": used}).encode()
    assert answer(body, "", "m").usage == Usage(9, 5, cached_tokens=4, reasoning_tokens=3)
    answered = Streamed("chat", "m")
    answered.take(b"data: " + body + b"\n\n")
    assert answered.usage == Usage(9, 5, cached_tokens=4, reasoning_tokens=3)
    nothing = {
        "prompt_tokens": 1,
        "prompt_tokens_details": None,
        "completion_tokens_details": {"reasoning_tokens": None},
    }
    assert answer(json.dumps({"usage": nothing}).encode(), "", "m").usage == Usage(1, 0)


def test_likelihoods_are_said_as_a_chat_says_them_by_row_or_by_column() -> None:
    token = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    rows = {"content": [{**token, "top_logprobs": [token]}], "refusal": None}
    columns = {"tokens": ["é"], "token_logprobs": [-0.5], "top_logprobs": [{"é": -0.5}], "text_offset": [0]}
    for told in (rows, columns):
        (chunk,) = deltas({"text": "é", "logprobs": told}, name="")
        assert chunk.logprobs == ({**token, "top_logprobs": [token]},)
    bare = {"tokens": ["a", "b"], "token_logprobs": [None, -1.0], "top_logprobs": None}
    (chunk,) = deltas({"text": "ab", "logprobs": bare}, name="")
    assert [(each["token"], each["logprob"], each["top_logprobs"]) for each in chunk.logprobs] == [
        ("a", 0.0, []),
        ("b", -1.0, []),
    ]


async def test_texts_go_upstream_in_one_call_and_vectors_come_back_by_their_numbers() -> None:
    packed = base64.b64encode(array("f", [0.5, -1.0]).tobytes()).decode()
    data = [{"index": 1, "embedding": packed}, {"index": 0, "embedding": [1, 2.5]}]
    body = json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 4, "total_tokens": 4}}).encode()
    async with serving(lambda caller: caller.answer(body)) as (engine, upstream):
        ask = Ask(engine._model, Parameters(), texts=("a", "b"), dimensions=2)
        (chunk,) = [chunk async for chunk in engine.stream(ask)]
    assert [list(vector) for vector in chunk.vectors] == [[1, 2.5], [0.5, -1.0]]
    assert chunk.usage == Usage(4, 0)
    (caller,) = upstream.seen
    assert caller.line == "POST /v1/embeddings HTTP/1.1"
    assert caller.body == {"model": "upstream-id", "input": ["a", "b"], "dimensions": 2, "encoding_format": "base64"}


async def test_many_vectors_are_read_beside_the_loop() -> None:
    packed = base64.b64encode(array("f", [0.25] * 1536).tobytes()).decode()
    body = json.dumps({"data": [{"index": n, "embedding": packed} for n in range(200)]}).encode()
    async with serving(lambda caller: caller.answer(body)) as (engine, _):
        ask = Ask(engine._model, Parameters(), texts=("a",) * 200)
        (chunk,) = [chunk async for chunk in engine.stream(ask)]
    assert (len(chunk.vectors), set(map(len, chunk.vectors)), chunk.usage) == (200, {1536}, None)


async def test_a_text_that_is_too_long_for_a_batch_overflows() -> None:
    said = b'{"error":{"code":500,"message":"input (2050 tokens) is too large to process. increase the batch size"}}'
    async with serving(lambda caller: caller.answer(said, 500)) as (engine, _):
        assert type(await fault(engine)) is ContextOverflow


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


async def test_a_stream_that_only_chatters_is_bounded_by_the_rows_timeout() -> None:
    async with serving(chattering, timeouts=Timeouts(0.2, 0.05, 0.05)) as (engine, upstream):
        assert type(await fault(engine)) is EngineTimeout
        await asyncio.wait_for(upstream.all_gone.wait(), 5)


async def test_a_caller_who_is_slow_to_take_is_not_the_engines_silence() -> None:
    async with serving(lambda caller: caller.events(*STREAM), timeouts=Timeouts(300.0, 0.2, 0.2)) as (engine, _):
        chunks = []
        async for chunk in asking(engine):
            chunks.append(chunk)
            await asyncio.sleep(0.4 if len(chunks) == 1 else 0)
    assert text_of(chunks) == "héllo wörld 🦜"


# What goes badly: the answer.


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
