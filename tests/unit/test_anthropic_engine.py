"""The Anthropic engine: what it asks, how it reads what comes, and every bad server."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    TooLarge,
    Unavailable,
)
from loquent.domain.models import Model, Timeouts
from loquent.domain.requests import NONE, REQUIRED, Message, Parameters, Picture, Tool, ToolCall
from loquent.domain.usage import Usage
from loquent.engines import Options
from loquent.engines.anthropic import Anthropic
from loquent.engines.anthropic_ask import DEEPEST
from loquent.engines.anthropic_wire import Streamed
from loquent.ports.engine import Ask, CallPiece, Chunk
from scripted import (
    Caller,
    Script,
    Upstream,
    listening,
)

pytestmark = pytest.mark.anyio

KEY = "sk-ant-very-secret-key"
HI = (Message("user", "my private words"),)
CHAT = frozenset(("chat", "vision", "json_schema"))
PNG = Picture("image/png", b"\x89PNG not really")


@asynccontextmanager
async def serving(script: Script, **more: Any) -> AsyncIterator[tuple[Anthropic, Upstream]]:
    """An engine that is open, and the server that it calls."""
    async with listening(script) as (url, upstream):
        row = {"name": "public", "id": "echo", "url": url, "key_env": "KEY", "abilities": CHAT, **more}
        engine = Anthropic(Model(engine="anthropic", **row), Options(Path(), keys={"KEY": KEY}))
        await engine.open()
        try:
            yield engine, upstream
        finally:
            await engine.close()


def asking(engine: Anthropic, *said: Message, streamed: bool = True, prompt: str | None = None, **wanted: Any) -> Any:
    return engine.stream(Ask(engine._model, Parameters(**wanted), said or HI, prompt, streamed))


async def heard(engine: Anthropic, *said: Message, **how: Any) -> list[Chunk]:
    return [chunk async for chunk in asking(engine, *said, **how)]


async def fault(engine: Anthropic, *said: Message, **how: Any) -> LoquentError:
    with pytest.raises(LoquentError) as raised:
        await heard(engine, *said, **how)
    assert KEY not in str(raised.value)
    assert "private" not in str(raised.value)
    return raised.value


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def event(kind: str, **more: Any) -> bytes:
    said = json.dumps({"type": kind, **more}, ensure_ascii=False).encode()
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), said)


def piece(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def end(reason: str = "end_turn", **counts: int) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=counts)


def error(kind: str, message: str = "x", **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "req_1"}


COUNTS = {"input_tokens": 5, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 1}
USED = Usage(125, 12, cached_tokens=100)
START = event("message_start", message={"type": "message", "content": [], "stop_reason": None, "usage": COUNTS})
OPEN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
CLOSE = event("content_block_stop", index=0)
STOP = event("message_stop")
PING = event("ping")
STREAM = (START, PING, OPEN, piece("héllo "), PING, piece("wörld 🦜"), CLOSE, end(output_tokens=12), STOP)
WHOLE = json.dumps(
    {
        "type": "message",
        "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}],
        "stop_reason": "max_tokens",
        "usage": {**COUNTS, "output_tokens": 12, "server_tool_use": None, "service_tier": "standard"},
    }
).encode()


async def both(caller: Caller) -> None:
    await (caller.events(*STREAM) if caller.body.get("stream") else caller.answer(WHOLE))


# What is asked.


async def test_everything_that_can_be_asked_goes_upstream_under_its_own_name() -> None:
    async with serving(both) as (engine, upstream):
        said = Message("system", "Be brief."), *HI
        await heard(engine, *said, streamed=False, max_tokens=5, temperature=0.0, stop=("a", "b"), seed=7)
        await heard(engine, *said, top_p=0.5)
    whole, streamed = upstream.seen
    assert whole.line == "POST /v1/messages HTTP/1.1"
    assert whole.headers["x-api-key"] == KEY
    assert whole.headers["anthropic-version"] == "2023-06-01"
    assert whole.headers["accept-encoding"] == "identity"
    assert "authorization" not in whole.headers
    same = {
        "model": "echo",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "my private words"}]}],
    }
    assert whole.body == {**same, "max_tokens": 5, "temperature": 0.0, "stop_sequences": ["a", "b"]}
    assert streamed.body == {**same, "max_tokens": 4096, "top_p": 0.5, "stream": True}


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_the_url_may_end_in_v1_or_not(ending: str) -> None:
    async with serving(both) as (engine, upstream):
        model = Model("m", "anthropic", "x", url=f"{engine._model.url}{ending}", abilities=CHAT)
        again = Anthropic(model, Options(Path()))
        await again.open()
        await heard(again)
        await again.close()
    (caller,) = upstream.seen
    assert caller.line == "POST /v1/messages HTTP/1.1"
    assert "x-api-key" not in caller.headers


def asked(*said: Message, context: int | None = None, **wanted: Any) -> dict[str, Any]:
    engine = Anthropic(Model("m", "anthropic", "x", abilities=CHAT, context=context), Options(Path()))
    body: dict[str, Any] = json.loads(engine._body(Ask(engine._model, Parameters(**wanted), said or HI)))
    return body


def test_turns_alternate_and_none_is_empty() -> None:
    body = asked(
        Message("system", "One."),
        Message("user", "a"),
        Message("user", "b"),
        Message("assistant", " \n"),  # an answer that was cancelled before its first word
        Message("user", "c"),
        Message("system", "Two."),
        Message("system", ""),
        Message("assistant", "d"),
        Message("user", "e", (PNG,)),
    )
    assert body["system"] == "One.\n\nTwo."
    turns = [
        (turn["role"], [block.get("text", block["type"]) for block in turn["content"]]) for turn in body["messages"]
    ]
    assert turns == [("user", ["a", "b", "c"]), ("assistant", ["d"]), ("user", ["image", "e"])]


def test_a_picture_is_a_block_of_its_own() -> None:
    (turn,) = asked(Message("user", "", (PNG,)))["messages"]
    data = base64.b64encode(PNG.data).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    assert turn == {"role": "user", "content": [{"type": "image", "source": source}]}


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"temperature": 0.9, "top_p": 1.0}, {"temperature": 0.9}),
        ({"temperature": 1.0}, {}),  # what the API does by itself
        ({"temperature": 2.0, "top_p": 0.3}, {"top_p": 0.3}),
        ({"seed": 3}, {}),
    ],
)
def test_sampling_is_asked_for_where_it_changes_something(wanted: dict[str, Any], sent: dict[str, Any]) -> None:
    assert {name: value for name, value in asked(**wanted).items() if name not in ("model", "messages")} == {
        "max_tokens": 4096,
        "stream": True,
        **sent,
    }


@pytest.mark.parametrize(
    ("most", "context", "sent"),
    [(None, None, 4096), (None, 200_000, 4096), (None, 1000, 500), (9, 1000, 9), (None, 1, 1)],
)
def test_the_length_is_always_said(most: int | None, context: int | None, sent: int) -> None:
    assert asked(max_tokens=most, context=context)["max_tokens"] == sent


CITY = {"type": "object", "properties": {"city": {"type": "string"}}}


def offered(*tools: Tool, said: tuple[Message, ...] = HI, **how: Any) -> dict[str, Any]:
    """What of a body is about tools."""
    engine = Anthropic(Model("m", "anthropic", "x", abilities=CHAT), Options(Path()))
    body = json.loads(engine._body(Ask(engine._model, Parameters(), said, tools=tools, **how)))
    return {name: value for name, value in body.items() if name in ("tools", "tool_choice")}


def test_tools_are_offered_under_their_own_names() -> None:
    strict = Tool("b", parameters={"properties": {"at": {"type": "object"}}}, strict=True)
    assert offered(Tool("a", "Does it.", CITY), strict, Tool("c", strict=False)) == {
        "tools": [
            {"name": "a", "description": "Does it.", "input_schema": CITY},
            {
                "name": "b",
                "strict": True,
                "input_schema": {
                    "type": "object",
                    "properties": {"at": {"type": "object", "additionalProperties": False}},
                    "additionalProperties": False,
                },
            },
            {"name": "c", "input_schema": {"type": "object"}},
        ]
    }
    assert offered() == {}
    with pytest.raises(Invalid) as deep:
        offered(Tool("d", parameters={"properties": {"x": nested(DEEPEST)}}, strict=True))
    assert deep.value.field == "tools"


@pytest.mark.parametrize(
    ("how", "choice"),
    [
        ({}, None),
        ({"parallel_calls": True}, None),
        ({"parallel_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": REQUIRED}, {"type": "any"}),
        ({"tool_choice": REQUIRED, "parallel_calls": False}, {"type": "any", "disable_parallel_tool_use": True}),
        ({"tool": "a"}, {"type": "tool", "name": "a"}),
        ({"tool": "a", "tool_choice": NONE}, {"type": "tool", "name": "a"}),
        ({"tool_choice": NONE, "parallel_calls": False}, {"type": "none"}),
    ],
)
def test_a_choice_of_tools_is_said_where_it_changes_something(how: dict[str, Any], choice: Any) -> None:
    assert offered(Tool("a"), **how).get("tool_choice") == choice
    assert offered(**how) == {}  # there is nothing to choose from


def test_results_of_calls_stand_first_in_one_turn_and_in_their_order() -> None:
    calls = ToolCall("c1", "clock", ""), ToolCall("c:2", "weather", '{"city": "Paris"}'), ToolCall("c3", "clock", "[1")
    said = (
        *(Message("user", "So?"), Message("assistant", " ", calls=calls)),
        Message("user", "Be quick."),
        *(Message("tool", "Noon.", call_id="c1"), Message("tool", " ", call_id="c:2")),
        Message("tool", "See:", (PNG,), call_id="c3"),
        Message("user", "And?"),
    )
    turns = asked(*said)["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "clock", "input": {}},
        {"type": "tool_use", "id": "c_2", "name": "weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "c3", "name": "clock", "input": {"INVALID_JSON": "[1"}},
    ]
    noon, nothing, seen, *rest = turns[2]["content"]
    assert noon == {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "Noon."}]}
    assert nothing == {"type": "tool_result", "tool_use_id": "c_2"}
    assert [block["type"] for block in seen["content"]] == ["image", "text"]
    assert [block["text"] for block in rest] == ["Be quick.", "And?"]
    named = [{"name": name, "input_schema": {"type": "object"}} for name in ("clock", "weather")]
    assert offered(said=said) == {"tools": named, "tool_choice": {"type": "none"}}
    assert [tool["name"] for tool in offered(Tool("other"), said=said)["tools"]] == ["other"]


def test_a_text_stands_before_the_calls_of_its_message() -> None:
    said = Message("assistant", "Let me see.", calls=(ToolCall("c1", "clock", "{}"),))
    (_, turn) = asked(*HI, said)["messages"]
    assert [block["type"] for block in turn["content"]] == ["text", "tool_use"]


@pytest.mark.parametrize(
    ("effort", "sent"),
    [
        (None, {}),
        ("none", {"thinking": {"type": "disabled"}}),
        *(
            (
                effort,
                {"output_config": {"effort": sent}, "thinking": {"type": "adaptive", "display": "summarized"}},
            )
            for effort, sent in (("minimal", "low"), ("low", "low"), ("xhigh", "xhigh"), ("max", "max"))
        ),
    ],
)
def test_an_effort_to_reason_is_asked_for_as_thinking(effort: str | None, sent: dict[str, Any]) -> None:
    body = asked(reasoning_effort=effort)
    assert {name: body[name] for name in ("output_config", "thinking") if name in body} == sent
    both = asked(reasoning_effort=effort, response_format=form({"type": "string"}))["output_config"]
    wanted = {"type": "json_schema", "schema": {"type": "string"}}
    assert both == {**sent.get("output_config", {}), "format": wanted}


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "wanted", "schema": schema}}


def test_a_schema_is_asked_for_with_its_objects_closed_and_nothing_else_changed() -> None:
    point = {"type": "object", "properties": {"x": {"type": "number"}}, "additionalProperties": True}
    schema = {
        "type": "object",
        "properties": {
            "many": {"type": "array", "items": point},
            "maybe": {"anyOf": [{"type": ["object", "null"]}, {"$ref": "#/$defs/point"}]},
            "like": {"enum": [{"type": "object"}]},
            "open": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "$defs": {"point": point},
    }
    sent = asked(response_format=form(schema))["output_config"]["format"]
    closed = {**point, "additionalProperties": False}
    assert sent == {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "many": {"type": "array", "items": closed},
                "maybe": {
                    "anyOf": [{"type": ["object", "null"], "additionalProperties": False}, {"$ref": "#/$defs/point"}]
                },
                "like": {"enum": [{"type": "object"}]},
                "open": {"type": "object", "additionalProperties": {"type": "string"}},  # the API says no to that
            },
            "$defs": {"point": closed},
        },
    }
    assert "additionalProperties" not in schema
    assert "output_config" not in asked(response_format={"type": "text"})


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("said", "wanted", "field"),
    [
        (HI, {"stop": ("end", "\n")}, "stop"),
        (HI, {"stop": ("",)}, "stop"),
        (HI, {"response_format": {"type": "json_object"}}, "response_format"),
        (HI, {"response_format": {"type": "json_schema"}}, "response_format"),
        (HI, {"response_format": form(7)}, "response_format"),
        (HI, {"response_format": {}}, "response_format"),
        (HI, {"response_format": form(nested(DEEPEST + 1))}, "response_format"),
        (HI, {"logprobs": 0}, "logprobs"),
        (HI, {"reasoning_effort": "a little"}, "reasoning_effort"),
        ((Message("user", " "),), {}, "messages"),
        ((Message("system", "Be brief."),), {}, "messages"),
        ((Message("system", "See.", (PNG,)), *HI), {}, "messages"),
        ((Message("user", "\ud800"),), {}, ""),
        ((), {"prompt": "go on"}, "prompt"),
    ],
)
async def test_what_the_api_cannot_do_is_refused_before_it_is_asked(
    said: tuple[Message, ...], wanted: dict[str, Any], field: str
) -> None:
    async with serving(both) as (engine, upstream):
        for is_stream in (True, False):
            refused = await fault(engine, *said, streamed=is_stream, **wanted)
            assert (type(refused), refused.field) == (Invalid, field)  # type: ignore[attr-defined]
        with pytest.raises(Invalid, match="vectors"):
            [chunk async for chunk in engine.stream(Ask(engine._model, Parameters(), texts=("a",)))]
        assert upstream.seen == []
    assert asked(response_format=form(nested(DEEPEST)))


@pytest.mark.parametrize(
    ("row", "keys", "says"),
    [
        ({"key_env": None}, {}, "needs a key_env"),
        ({}, {}, "KEY holds no key"),
        ({}, {"KEY": "hush\r\nX: y"}, "x-api-key"),
        ({"url": "ftp://host"}, {"KEY": "hush"}, "url takes"),
        ({"abilities": frozenset(("chat", "text"))}, {"KEY": "hush"}, "go on from a prompt: .*abilities"),
        ({"abilities": frozenset(("chat", "embeddings"))}, {"KEY": "hush"}, "make vectors"),
        ({"abilities": frozenset(("chat", "logprobs"))}, {"KEY": "hush"}, "how likely"),
    ],
)
async def test_a_row_that_cannot_work_stops_the_start(row: dict[str, Any], keys: dict[str, str], says: str) -> None:
    model = Model("m", "anthropic", "x", **{"abilities": CHAT, "key_env": "KEY", **row})
    with pytest.raises(Misconfigured, match=says) as refused:
        await Anthropic(model, Options(Path(), keys=keys)).open()
    assert "hush" not in refused.value.message


async def test_without_a_url_it_is_anthropics_own() -> None:
    engine = Anthropic(Model("m", "anthropic", "x", key_env="KEY", abilities=CHAT), Options(Path(), keys={"KEY": "k"}))
    await engine.open()
    assert engine._server is not None
    assert (engine._server._is_https, engine._server._host) == (True, "api.anthropic.com")
    await engine.close()


# What comes.


async def test_a_whole_answer_is_one_chunk_and_its_prompt_counts_what_the_cache_had() -> None:
    async with serving(both) as (engine, _):
        (chunk,) = await heard(engine, streamed=False)
    assert (chunk.text, chunk.finish_reason, chunk.usage) == ("hello", "length", USED)


async def test_a_stream_carries_the_text_why_it_ends_and_the_last_counts() -> None:
    async with serving(both) as (engine, upstream):
        chunks = await heard(engine)
        await heard(engine, streamed=False)
    assert text_of(chunks) == "héllo wörld 🦜"
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1] == Chunk(usage=USED)
    assert upstream.connections == 1


def streamed(pieces: list[bytes]) -> tuple[str, str | None, Usage | None]:
    answered = Streamed("public")
    chunks = [chunk for piece in pieces if not answered.is_over and (chunk := answered.take(piece))]
    if not answered.is_over and (chunk := answered.end()):
        chunks.append(chunk)
    return text_of(chunks), next((c.finish_reason for c in chunks if c.finish_reason), None), answered.usage


PLAIN = b"".join(STREAM)
RIGHT = ("héllo wörld 🦜", "stop", USED)
FORMS = {
    "plain": PLAIN,
    "crlf": PLAIN.replace(b"\n", b"\r\n"),
    "cr": PLAIN.replace(b"\n", b"\r"),
    "bom": b"\xef\xbb\xbf" + PLAIN,
    "comments": b": hello\n\n" + PLAIN.replace(b"data: ", b": PROCESSING\nid: 1\ndata:"),
    "lines": PLAIN.replace(b'"index":', b'\ndata: "index":'),
    "names left out": b"".join(b"data: " + part.partition(b"data: ")[2] for part in STREAM),
    "gaps": PLAIN.replace(b"\n\n", b"\n\n\n\n"),
    "no end": PLAIN.removesuffix(b"\n\n"),
    "no stop": PLAIN.removesuffix(STOP),
    "more behind it": PLAIN + b"data: [DONE]\n\n",
    "new sorts of events": PLAIN.replace(PING, event("weather", delta="sunny", message=[1], error=None)),
    "thinking first": PLAIN.replace(
        OPEN,
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
        + event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"})
        + event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2ln"})
        + event("content_block_start", index=1, content_block={"type": "server_tool_use", "name": "x", "input": {}})
        + event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "{}"})
        + OPEN,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_events_may_be_written_in_any_form_and_split_at_any_byte(form: str) -> None:
    whole = FORMS[form]
    for at in range(len(whole) + 1):
        assert streamed([whole[:at], whole[at:]]) == RIGHT
    assert streamed([whole[n : n + 1] for n in range(len(whole))]) == RIGHT


@given(some.lists(some.integers(0, len(PLAIN)), max_size=12), some.sampled_from(sorted(FORMS)))
def test_events_may_be_split_at_any_bytes(cuts: list[int], form: str) -> None:
    whole = FORMS[form]
    at = [0, *sorted(cut for cut in cuts if cut <= len(whole)), len(whole)]
    assert streamed([whole[a:b] for a, b in itertools.pairwise(at)]) == RIGHT


JUNK = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=5),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(
            some.sampled_from(
                ("type", "delta", "text", "usage", "message", "error", "index", "content_block", "input")
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


KINDS = some.sampled_from(("message_start", "content_block_start", "content_block_delta", "message_delta"))
BLOCKS = some.fixed_dictionaries(
    {"type": some.sampled_from(("tool_use", "text", "input_json_delta", "thinking_delta"))},
    optional=dict.fromkeys(("id", "name", "input", "partial_json", "text", "thinking", "stop_reason"), JUNK),
)
EVENTS = some.fixed_dictionaries(
    {"type": KINDS},
    optional={"index": JUNK | some.integers(0, 2), "delta": BLOCKS, "content_block": BLOCKS, "usage": JUNK},
)


@given(
    some.binary(max_size=300)
    | JUNK.map(lambda said: b"data: %s\n\n" % json.dumps(said).encode())
    | some.lists(EVENTS, max_size=4).map(lambda all: b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in all))
)
def test_any_bytes_are_an_answer_or_an_engine_that_failed(data: bytes) -> None:
    try:
        streamed([data])
    except LoquentError as refused:
        assert isinstance(refused, EngineFailed)


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "length"),  # a turn that is not at its end
        ("something_new", "stop"),
    ],
)
def test_each_stop_reason_is_one_of_ours(reason: str, ours: str) -> None:
    assert streamed([START, piece("x"), end(reason, output_tokens=1), STOP])[1] == ours


def test_counts_that_come_later_take_the_place_of_those_before() -> None:
    later = end(input_tokens=7, cache_read_input_tokens=0, output_tokens=3)
    assert streamed([START, end(output_tokens=2), later, STOP])[2] == Usage(27, 3)
    assert streamed([START.replace(b"100", b"null"), end(output_tokens=2), STOP])[2] == Usage(25, 2)
    bare = event("message_start", message={"type": "message"})
    assert streamed([bare, end(output_tokens=2), STOP])[2] == Usage(0, 2)
    assert streamed([bare, event("message_delta", delta={"stop_reason": "end_turn"}), STOP])[2] is None


def test_text_may_stand_in_the_blocks_beginning() -> None:
    begun = event("content_block_start", index=0, content_block={"type": "text", "text": "a"})
    assert streamed([START, begun, piece("b"), end(), STOP])[0] == "ab"


def block(index: int, kind: str, **more: Any) -> bytes:
    return event("content_block_start", index=index, content_block={"type": kind, **more})


def use(index: int, name: str, **taken: Any) -> bytes:
    return block(index, "tool_use", id=f"toolu_{index}", name=name, input=taken, caller={"type": "direct"})


def delta(index: int, kind: str, **more: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **more})


def bit(index: int, said: str) -> bytes:
    return delta(index, "input_json_delta", partial_json=said)


def closing(index: int) -> bytes:
    return event("content_block_stop", index=index)


CALLING = (
    START,
    *(block(0, "thinking", thinking="", signature=""), delta(0, "thinking_delta", thinking="hm ")),
    *(delta(0, "thinking_delta", thinking="ok"), delta(0, "signature_delta", signature="c2ln"), closing(0)),
    *(block(1, "redacted_thinking", data="c2ln"), closing(1)),
    *(OPEN.replace(b"0", b"2"), delta(2, "text_delta", text="Let me sée."), closing(2)),
    *(block(3, "server_tool_use", id="srv_1", name="web_search", input={}), bit(3, '{"query": 1}'), closing(3)),
    *(use(4, "weather"), bit(4, ""), PING, bit(4, '{"city": "Zür'), bit(4, 'ich"}'), closing(4)),
    *(use(5, "clock"), bit(5, ""), closing(5)),
    *(use(6, "lamp", lit=True), closing(6)),
    *(end("tool_use", output_tokens=12), STOP),
)
CALLS = {0: ("toolu_4", "weather", '{"city": "Zürich"}'), 1: ("toolu_5", "clock", "{}"), 2: ("toolu_6", "lamp")}


def all_chunks(pieces: list[bytes]) -> list[Chunk]:
    answered = Streamed("public")
    return [chunk for piece in pieces if (chunk := answered.take(piece))]


def called(chunks: list[Chunk]) -> dict[int, tuple[str, ...]]:
    calls: dict[int, list[str]] = {}
    for piece in (piece for chunk in chunks for piece in chunk.calls):
        if piece.index not in calls:
            assert piece.id and piece.name, "the first piece of a call says who is called"
            calls[piece.index] = [piece.id, piece.name, ""]
        else:
            assert piece.id == piece.name == ""
        calls[piece.index][2] += piece.arguments
    assert list(calls) == sorted(calls)
    return {index: (*call,) for index, call in calls.items()}


def test_calls_come_piece_by_piece_and_count_only_each_other() -> None:
    for size in (1, 7, 100, 100_000):
        whole = b"".join(CALLING)
        chunks = all_chunks([whole[at : at + size] for at in range(0, len(whole), size)])
        calls = called(chunks)
        assert {**calls, 2: calls[2][:2]} == CALLS
        assert json.loads(calls[2][2]) == {"lit": True}  # all of it in the block's beginning
        assert text_of(chunks) == "Let me sée."
        assert "".join(chunk.reasoning for chunk in chunks) == "hm ok"
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]
    first = next(chunk for chunk in all_chunks([*CALLING]) if chunk.calls)
    assert first.calls == (CallPiece(0, "toolu_4", "weather"),)  # as soon as it is known


def test_a_call_that_is_cut_by_its_length_is_left_as_it_came() -> None:
    chunks = all_chunks(
        [START, use(0, "weather"), bit(0, '{"ci'), closing(0), end("max_tokens", output_tokens=3), STOP]
    )
    assert called(chunks) == {0: ("toolu_0", "weather", '{"ci')}
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]


async def test_a_whole_answer_has_its_calls_and_its_thoughts() -> None:
    content = [
        {"type": "thinking", "thinking": "hm ok", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2ln"},
        {"type": "text", "text": "Let me sée."},
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": 1}},
        {"type": "tool_use", "id": "toolu_4", "name": "weather", "input": {"city": "Zürich", "n": 1.0}},
        {"type": "tool_use", "id": "toolu_5", "name": "clock", "input": {}},
        {"type": "tool_use", "id": "toolu_6", "name": "lamp"},
    ]
    counted = {**COUNTS, "output_tokens": 12, "output_tokens_details": {"thinking_tokens": 5}}
    message = {"type": "message", "content": content, "stop_reason": "tool_use", "usage": counted}
    body = json.dumps(message, ensure_ascii=False).encode()
    async with serving(lambda caller: caller.answer(body)) as (engine, _):
        (chunk,) = await heard(engine, streamed=False)
    assert (chunk.text, chunk.reasoning, chunk.finish_reason) == ("Let me sée.", "hm ok", "tool_calls")
    assert [(call.index, call.id, call.name, call.arguments) for call in chunk.calls] == [
        (0, "toolu_4", "weather", '{"city": "Zürich", "n": 1.0}'),
        (1, "toolu_5", "clock", "{}"),
        (2, "toolu_6", "lamp", "{}"),
    ]
    assert chunk.usage == Usage(125, 12, cached_tokens=100, reasoning_tokens=5)


@pytest.mark.parametrize(
    "broken",
    [
        block(0, "tool_use", id="", name="a", input={}),
        block(0, "tool_use", name="a", input={}),
        block(0, "tool_use", id="toolu_1", input={}),
        block(0, "tool_use", id=7, name="a", input={}),
        use(0, "a", x="?").replace(b"?", b"\xff"),
        bit(0, "?").replace(b'"?"', b"7"),
    ],
)
async def test_a_call_that_cannot_be_read_is_a_failure(broken: bytes) -> None:
    assert type(await broken_off(broken)) is EngineFailed
    said = json.loads(broken.split(b"data: ")[1].decode("utf-8", "surrogateescape"))
    if "content_block" in said:
        body = {"type": "message", "content": [said["content_block"]], "stop_reason": "tool_use"}
        whole = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogateescape")
        async with serving(lambda caller: caller.answer(whole)) as (engine, _):
            assert type(await fault(engine, streamed=False)) is EngineFailed


async def test_an_empty_answer_is_an_answer() -> None:
    body = json.dumps({"type": "message", "content": [], "stop_reason": "refusal", "usage": COUNTS}).encode()
    async with serving(lambda caller: caller.answer(body)) as (engine, _):
        (chunk,) = await heard(engine, streamed=False)
    assert (chunk.text, chunk.finish_reason, chunk.usage) == ("", "content_filter", Usage(125, 1, cached_tokens=100))


# What goes badly: refusals.

REFUSALS: list[tuple[int, dict[str, Any], type]] = [
    (400, error("invalid_request_error", "temperature: range: 0..1"), Invalid),
    (400, error("invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"), ContextOverflow),
    (
        400,
        error("invalid_request_error", "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000"),
        ContextOverflow,
    ),
    (400, error("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), EngineFailed),
    (400, error("invalid_request_error", "You have reached your specified API usage limits."), EngineFailed),
    (401, error("authentication_error", f"invalid x-api-key {KEY}"), EngineFailed),
    (402, error("billing_error", "pay"), EngineFailed),
    (403, error("permission_error", "no"), EngineFailed),
    (404, error("not_found_error", "model: echo"), Invalid),
    (413, error("request_too_large", "Request exceeds the maximum size"), TooLarge),
    (429, error("rate_limit_error", "slow down"), EngineBusy),
    (429, error("rate_limit_error", "no", details={"error_code": "enforced_spend_limit_reached"}), EngineFailed),
    (500, error("api_error", f"Internal server error {KEY}"), Unavailable),
    (504, error("timeout_error", "Request timeout"), Unavailable),
    (529, error("overloaded_error", "Overloaded"), EngineBusy),
]


@pytest.mark.parametrize(("status", "said", "meaning"), REFUSALS)
async def test_each_refusal_has_its_meaning(status: int, said: dict[str, Any], meaning: type) -> None:
    body = json.dumps(said).encode()
    async with serving(lambda caller: caller.answer(body, status)) as (engine, _):
        for is_stream in (True, False):
            assert type(await fault(engine, streamed=is_stream)) is meaning
    async with serving(lambda caller: caller.answer(body)) as (engine, _):  # in the clothes of a success
        assert type(await fault(engine, streamed=False)) is meaning
    assert type(await broken_off(b"event: error\ndata: %s\n\n" % body)) is meaning


async def broken_off(said: bytes) -> LoquentError:
    """What a stream ends with that has begun well and then says this."""
    heard = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.begin()
        await caller.chunk(START + piece("so far"))
        await heard.wait()
        await (caller.chunk(said) if said else caller.send(b"0\r\n\r\n"))

    async with serving(script) as (engine, _):
        stream = asking(engine)
        assert (await anext(stream)).text == "so far"
        heard.set()
        with pytest.raises(LoquentError) as late:
            await anext(stream)
    assert KEY not in late.value.message
    return late.value


@pytest.mark.parametrize(
    ("status", "meaning"), [(400, Invalid), (408, EngineTimeout), (418, EngineFailed), (502, Unavailable)]
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"error":"short"}',
        b'{"error":{"type":7}}',
        b"[1]",
        b"[" * 9999,
        b'{"error":{"message":"\xff"}}',
    ],
)
async def test_a_refusal_may_have_any_body(body: bytes, status: int, meaning: type) -> None:
    async with serving(lambda caller: caller.answer(body, status)) as (engine, _):
        assert type(await fault(engine, streamed=False)) is meaning


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("`temperature` is deprecated for this model", "temperature"),
        ("max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens", "max_tokens"),
        ("output_config.format.schema: For 'number' type, property 'minimum' is not supported", "response_format"),
        ("stop_sequences: too many", "stop"),
        ("output_config.effort: this model does not support the effort level xhigh", "reasoning_effort"),
        ("adaptive thinking is not supported on this model", "reasoning_effort"),
        ("tools.0.custom.input_schema.type: Field required", "tools"),
        ("tool_choice: may only be specified while providing tools.", "tool_choice"),
        ("messages.1: Prefilling assistant messages is not supported for this model.", "messages"),
        ("something else", ""),
    ],
)
async def test_a_refusal_names_the_field_as_we_call_it(words: str, field: str) -> None:
    body = json.dumps(error("invalid_request_error", words)).encode()
    async with serving(lambda caller: caller.answer(body, 400)) as (engine, _):
        refused = await fault(engine)
    assert isinstance(refused, Invalid)
    assert refused.field == field
    assert words in refused.message


@pytest.mark.parametrize("status", [429, 529, 503])
async def test_a_busy_engine_says_how_long_to_wait(status: int) -> None:
    for header, seconds in (("Retry-After: 7\r\n", 7.0), ("", None)):
        async with serving(lambda caller, header=header: caller.answer(b"{}", status, extra=header)) as (engine, _):
            refused = await fault(engine)
        assert isinstance(refused, Unavailable)
        assert isinstance(refused, EngineBusy) == (status != 503)
        assert refused.retry_after == seconds


# What goes badly: the connection and the answer.


async def pinging(caller: Caller) -> None:
    await caller.begin()
    while True:
        await caller.chunk(PING)
        await asyncio.sleep(0.005)


async def test_a_stream_that_only_pings_is_bounded_by_the_rows_timeout() -> None:
    async with serving(pinging, timeouts=Timeouts(0.2, 0.05, 0.05)) as (engine, upstream):
        assert type(await fault(engine)) is EngineTimeout
        await asyncio.wait_for(upstream.all_gone.wait(), 5)


@pytest.mark.parametrize(
    "said",
    [
        piece("x")[:50] + b"\n\n",
        b"data: {}{}\n\n",
        b"data: hello\n\n",
        b"data: 1\n\n",
        b'data: {"type":"content_block_delta"}\n\n',
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":7}}\n\n',
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"\xff"}}\n\n',
        b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":"9"}}\n\n',
        b"",  # the end, without a reason
    ],
)
async def test_an_event_that_cannot_be_read_or_never_comes_is_a_failure(said: bytes) -> None:
    assert type(await broken_off(said)) is EngineFailed


@pytest.mark.parametrize("kind", ["text/html", "application/json", ""])
async def test_a_stream_of_another_type_is_a_failure(kind: str) -> None:
    async with serving(lambda caller: caller.answer(WHOLE, kind=kind)) as (engine, _):
        assert type(await fault(engine)) is EngineFailed


@pytest.mark.parametrize(("status", "is_ready"), [(200, True), (404, True), (401, False), (529, False)])
async def test_ready_is_what_the_list_of_models_says(status: int, is_ready: bool) -> None:
    async with serving(lambda caller: caller.answer(b"{}", status)) as (engine, upstream):
        if is_ready:
            await engine.ready()
            await engine.ready()
        else:
            with pytest.raises(Unavailable):
                await engine.ready()
        assert [caller.line for caller in upstream.seen] == ["GET /v1/models?limit=1 HTTP/1.1"]
