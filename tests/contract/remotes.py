"""The wires of remote engines, for the contract that all of them keep: a good answer of each, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loquent.domain.requests import Message, Picture, Tool

KEY = "a-very-secret-key"
PRIVATE = "my private words"
HI = (Message("user", PRIVATE),)


@dataclass(frozen=True)
class Wire:
    """One engine, asked for one thing."""

    name: str
    row: Mapping[str, Any]
    ask: Mapping[str, Any]  # what an Ask takes beside the model and the parameters
    whole: bytes  # the body of a good answer
    says: Any  # what it says: its text, the arguments of its calls, its vectors
    events: tuple[bytes, ...] = ()  # of the same answer as a stream; none: it does not stream
    broken: tuple[bytes, ...] = field(default=(), repr=False)  # bodies that are JSON, but no answer of this wire


def _json(said: Any) -> bytes:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


def _data(*events: Any) -> tuple[bytes, ...]:
    return (*(b"data: %s\n\n" % _json({"model": "them", **event}) for event in events), b"data: [DONE]\n\n")


def _typed(*events: Mapping[str, Any]) -> tuple[bytes, ...]:
    return tuple(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), _json(event)) for event in events)


def _delta(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def _call(**more: Any) -> dict[str, Any]:
    return _delta(tool_calls=[{"index": 0, **more}])


SAID = "héllo wörld 🦜"
ARGUMENTS = '{"city":"Zürich"}'
USED = {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
FUNCTION = {"name": "get_weather", "arguments": ARGUMENTS}
OPENAI = {"engine": "openai", "id": "them"}
COUNTS = {"input_tokens": 3, "output_tokens": 2}
PIECES = ({"type": "text_delta", "text": "héllo "}, {"type": "text_delta", "text": "wörld 🦜"})

WIRES = (
    Wire(
        "openai chat",
        OPENAI,
        {"messages": HI},
        _json({"choices": [{"message": {"content": SAID}, "finish_reason": "stop"}], **USED}),
        SAID,
        _data(
            _delta(role="assistant"),
            _delta(content="héllo "),
            _delta(content="wörld 🦜"),
            _delta("stop"),
            {"choices": [], **USED},
        ),
        (
            b'{"choices":[{"message":{"content":7}}]}',
            b'{"choices":{}}',
            b'{"choices":[{"message":{"content":"\xff"}}]}',
        ),
    ),
    Wire(
        "openai tools",
        OPENAI,
        {"messages": HI, "tools": (Tool("get_weather"),)},
        _json(
            {
                "choices": [
                    {
                        "message": {"content": None, "tool_calls": [{"id": "c1", "function": FUNCTION}]},
                        "finish_reason": "tool_calls",
                    }
                ],
                **USED,
            }
        ),
        ARGUMENTS,
        _data(
            _call(id="c1", type="function", function={"name": "get_weather", "arguments": ""}),
            _call(function={"arguments": ARGUMENTS[:9]}),
            _call(function={"arguments": ARGUMENTS[9:]}),
            _delta("tool_calls"),
            {"choices": [], **USED},
        ),
        (b'{"choices":[{"message":{"tool_calls":7}}]}', b'{"choices":[{"message":{"tool_calls":[{"function":"x"}]}}]}'),
    ),
    Wire(
        "openai completion",
        OPENAI,
        {"prompt": PRIVATE},
        _json({"choices": [{"text": SAID, "finish_reason": "length"}], **USED}),
        SAID,
        _data(
            {"choices": [{"text": "héllo "}]},
            {"choices": [{"text": "wörld 🦜"}]},
            {"choices": [{"text": "", "finish_reason": "length"}]},
            {"choices": [], **USED},
        ),
        (b'{"choices":[{"text":[]}]}',),
    ),
    Wire(
        "openai embeddings",
        OPENAI,
        {"texts": (PRIVATE, "b")},
        _json({"data": [{"index": 1, "embedding": [1, 2]}, {"index": 0, "embedding": "AACAPwAAAAA="}], **USED}),
        [[1.0, 0.0], [1.0, 2.0]],
        broken=(
            b"{}",
            b'{"data":[{"index":0,"embedding":[1]}]}',
            b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}',
            b'{"data":[{"index":0,"embedding":[1]},{"index":2,"embedding":[1]}]}',
            b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1,2]}]}',
            b'{"data":[{"index":0,"embedding":[]},{"index":1,"embedding":[]}]}',
            b'{"data":[{"index":0,"embedding":"AAA="},{"index":1,"embedding":"AAA="}]}',
            b'{"data":[{"index":0,"embedding":"no base64"},{"index":1,"embedding":"no base64"}]}',
            b'{"data":[{"index":0,"embedding":"AADAfw=="},{"index":1,"embedding":"AADAfw=="}]}',  # not a number
            b'{"data":[{"index":0,"embedding":[null]},{"index":1,"embedding":[null]}]}',
        ),
    ),
    Wire(
        "anthropic",
        {"engine": "anthropic", "id": "them", "abilities": frozenset(("chat",))},
        {"messages": HI},
        _json(
            {"type": "message", "content": [{"type": "text", "text": SAID}], "stop_reason": "end_turn", "usage": COUNTS}
        ),
        SAID,
        _typed(
            {"type": "message_start", "message": {"type": "message", "content": [], "usage": COUNTS}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *({"type": "content_block_delta", "index": 0, "delta": piece} for piece in PIECES),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": COUNTS},
            {"type": "message_stop"},
        ),
        (
            b"{}",
            b'{"type":"message","content":[{"type":"text","text":7}]}',
            b'{"type":"message","content":[{"type":"text","text":"\xff"}]}',
            b'{"type":"message","content":"hello"}',
            b'{"type":"completion","completion":"x"}',
        ),
    ),
    Wire(
        "http_text",
        {"engine": "http_text", "id": "them"},
        {"prompt": PRIVATE},
        _json({"modelResponse": SAID, "isSuccess": True}),
        SAID,
        broken=(b"{}", b'{"modelResponse":7,"isSuccess":true}', b'{"modelResponse":"x","isSuccess":false}'),
    ),
    Wire(
        "http_image",
        {"engine": "http_image", "id": "them", "abilities": frozenset(("vision", "boolean"))},
        {"messages": (Message("user", PRIVATE, (Picture("image/png", b"\x89PNG"),)),)},
        b'{"prediction":[[1]]}',
        "true",
        broken=(b"{}", b'{"prediction":[[1,0]]}', b'{"prediction":[]}', b'{"prediction":[["yes"]]}'),
    ),
)
