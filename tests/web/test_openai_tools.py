"""OpenAI's chat beyond text: tools and their results, pictures, logprobs, what a model thinks aloud."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import client_of, kept, serving, token_of
from loquent.wiring import Services
from samples import pictures
from scripted import Caller, listening

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
ROWS = """
[[model]]
name = "able"
engine = "echo"
id = "echo"
abilities = ["text", "chat", "tools", "vision", "logprobs"]

[[model]]
name = "plain"
engine = "echo"
id = "echo"
abilities = ["text", "chat"]
"""
WEATHER = {
    "name": "weather",
    "description": "Tells it",
    "parameters": {"type": "object", "properties": {"city": {"type": ["string", "null"]}}, "required": ["city"]},
}
TIME = {"name": "time"}
TOOLS = [{"type": "function", "function": each} for each in (WEATHER, TIME)]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
ASKED = {"role": "user", "content": '[call weather {"city": "Paris"}] please'}
PNG = pictures.plain("PNG")
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    rows = tmp_path / "rows.toml"
    rows.write_text(ROWS)
    async with (
        serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, services),
        client_of(app, token_of(services, "ann")) as client,
    ):
        yield client, services


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "able", "messages": list(messages) or [ASKED], **more}


def url_of(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def looking(*urls: str, role: str = "user", text: str = "[look]", **more: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": each, **more}} for each in urls]
    return {"role": role, "content": [{"type": "text", "text": text}, *parts]}


def chunks_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def choice_of(client: httpx2.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    return dict(choice)


# Tools


async def test_a_call_of_a_tool_is_exactly_this(at: Ours) -> None:
    client, _ = at
    choice = await choice_of(client, chat(tools=TOOLS))
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]},
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


async def test_a_stream_of_a_call_is_exactly_this(at: Ours) -> None:
    client, _ = at
    answer = await client.post(CHAT, json=chat(tools=TOOLS, stream=True, stream_options={"include_usage": True}))
    *chunks, last, usage = chunks_of(answer.text)
    first, *more = [each["choices"][0]["delta"] for each in chunks]
    begun = {"index": 0, **CALL, "function": {"name": "weather", "arguments": ""}}
    assert first == {"role": "assistant", "tool_calls": [begun]}
    assert all(set(each["tool_calls"][0]) == {"index", "function"} for each in more), "later pieces have no id"
    assert "".join(each["tool_calls"][0]["function"]["arguments"] for each in more) == '{"city": "Paris"}'
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "tool_calls")
    assert usage["choices"] == []
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_several_calls_are_told_apart_by_their_index(at: Ours) -> None:
    client, _ = at
    asked = {"role": "user", "content": '[call weather {"city": "Rome"}] [call time]'}
    choice = await choice_of(client, chat(asked, tools=TOOLS))
    assert [each["function"]["name"] for each in choice["message"]["tool_calls"]] == ["weather", "time"]
    stream = await client.post(CHAT, json=chat(asked, tools=TOOLS, stream=True))
    gathered: dict[int, str] = {}
    for each in chunks_of(stream.text):
        for piece in each["choices"][0]["delta"].get("tool_calls", ()):
            gathered[piece["index"]] = gathered.get(piece["index"], "") + piece["function"]["arguments"]
    assert gathered == {0: '{"city": "Rome"}', 1: "{}"}
    alone = await choice_of(client, chat(asked, tools=TOOLS, parallel_tool_calls=False))
    assert len(alone["message"]["tool_calls"]) == 1


async def test_the_result_of_a_call_is_answered(at: Ours) -> None:
    client, _ = at
    said = (await choice_of(client, chat(tools=TOOLS)))["message"]
    for content in ("It is warm.", [{"type": "text", "text": "It is "}, {"type": "text", "text": "warm."}]):
        result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": content}
        choice = await choice_of(client, chat(ASKED, said, result, tools=TOOLS))
        assert (choice["message"]["content"], choice["finish_reason"]) == ("It is warm.", "stop")
        assert "tool_calls" not in choice["message"]


async def test_what_is_kept_of_a_call_can_be_read_in_the_history(at: Ours) -> None:
    client, _ = at
    result = {"role": "tool", "tool_call_id": "call_1", "content": "warm"}
    body = chat(ASKED, {"role": "assistant", "tool_calls": [CALL]}, result, ASKED, tools=TOOLS, tool_choice="required")
    answer = await client.post(CHAT, json=body)
    found = (await client.get(f"/api/v1/generations/{answer.headers['x-loquent-generation']}")).json()
    stored = {"id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'}
    assert found["input"] == {
        "messages": [
            ASKED,
            {"role": "assistant", "content": "", "calls": [stored]},
            {"role": "tool", "content": "warm", "call_id": "call_1"},
            ASKED,
        ],
        "tools": [WEATHER, TIME],
        "tool_choice": "required",
    }
    assert (found["output"], found["finish_reason"]) == ("", "tool_calls")
    assert found["calls"] == [{**stored, "id": "call_2"}]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["weather"]),
        ("auto", ["weather"]),
        ("none", []),
        ("required", ["weather"]),
        ({"type": "function", "function": {"name": "time"}}, ["time"]),
    ],
    ids=str,
)
async def test_which_tool_is_called_may_be_said(at: Ours, choice: Any, names: list[str]) -> None:
    client, _ = at
    said = await choice_of(client, chat(tools=TOOLS, tool_choice=choice))
    assert [each["function"]["name"] for each in said["message"].get("tool_calls", ())] == names


async def test_a_repeat_says_the_same_again_whole_and_as_a_stream(at: Ours) -> None:
    client, services = at
    asked = {"role": "user", "content": "[think it over] one two"}
    for number, body in enumerate((chat(tools=TOOLS), chat(asked, logprobs=True))):
        key = {"idempotency-key": f"key {number}"}
        first = await client.post(CHAT, json=body, headers=key)
        again = await client.post(CHAT, json=body, headers=key)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json() == first.json()
        streamed = {**body, "stream": True}
        live, told = [await client.post(CHAT, json=streamed, headers={"idempotency-key": f"s{number}"}) for _ in (1, 2)]
        assert told.headers["idempotent-replayed"] == "true"
        assert gathered(told.text) == gathered(live.text)
    assert (await kept(services))["generations"] == 4


def gathered(text: str) -> dict[str, Any]:
    """All that the deltas of a stream say, put together."""
    found: dict[str, Any] = {"content": "", "reasoning_content": "", "arguments": "", "ids": [], "tokens": []}
    for each in chunks_of(text):
        [choice] = each["choices"]
        delta = choice["delta"]
        found["content"] += delta.get("content") or ""
        found["reasoning_content"] += delta.get("reasoning_content") or ""
        found["tokens"] += [token["token"] for token in (choice["logprobs"] or {}).get("content", ())]
        for piece in delta.get("tool_calls", ()):
            found["ids"] += [piece["id"]] if "id" in piece else []
            found["arguments"] += piece["function"]["arguments"]
        found["reason"] = choice["finish_reason"]
    return found


# Pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_a_picture_is_seen(at: Ours, kind: str) -> None:
    client, _ = at
    data = pictures.plain(kind)
    for detail in ("low", "high", "auto", "original", None):
        choice = await choice_of(client, chat(looking(url_of(data, kind.lower()), detail=detail)))
        assert choice["message"]["content"] == f"1 picture: image/{kind.lower()} of {len(data)} bytes"


async def test_a_message_of_nothing_but_pictures_is_taken_and_kept(at: Ours) -> None:
    client, _ = at
    url = url_of(PNG)
    asked = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}] * 2}
    answer = await client.post(CHAT, json=chat(asked))
    assert answer.json()["choices"][0]["message"]["content"].startswith("2 pictures:")
    found = (await client.get(f"/api/v1/generations/{answer.headers['x-loquent-generation']}")).json()
    [message] = found["input"]["messages"]
    assert message["pictures"] == [{"media_type": "image/png", "data": url.partition(",")[2]}] * 2


async def test_a_picture_of_several_megabytes_fits_and_a_text_of_that_size_does_not(at: Ours) -> None:
    client, services = at
    large = PNG + b"\0" * 5_000_000
    for path, body in (
        (CHAT, chat(looking(url_of(large)))),
        ("/api/v1/generations", {"model": "able", "messages": [looking(url_of(large))]}),
    ):
        answer = await client.post(path, json=body)
        assert answer.status_code == 200, answer.text[:500]
        assert f"image/png of {len(large)} bytes" in answer.text
        words = {"role": "user", "content": [{"type": "text", "text": "word " * 100_000}] * 3}
        for fat in (words, {"role": "user", "content": "[" * 1_500_000}):
            refused = await client.post(path, json={"model": "able", "messages": [looking(url_of(PNG)), fat]})
            assert (refused.status_code, "1000000 bytes" in refused.text) == (413, True)
    assert (await kept(services))["generations"] == 2


async def test_what_is_no_picture_cannot_make_a_body_larger(at: Ours) -> None:
    client, _ = at
    for body in (b'{"a": ";base64,' + b"x" * 2_000_000, b'{"a": "' + b";base64," * 300_000, b'";base64,"' * 300_000):
        answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 413)
    over = await client.post(CHAT, content=b" " * 20_000_001, headers={"content-type": "application/json"})
    assert (over.status_code, "20000000" in over.text) == (413, True)


# How likely, and what was thought


async def test_how_likely_each_token_was_is_told(at: Ours) -> None:
    client, _ = at
    asked = {"role": "user", "content": "one two"}
    choice = await choice_of(client, chat(asked, logprobs=True, top_logprobs=2))
    told = choice["logprobs"]["content"]
    assert [each["token"] for each in told] == ["one", " two"]
    assert all(len(each["top_logprobs"]) == 2 and each["logprob"] < 0 for each in told)
    assert choice["logprobs"]["refusal"] is None
    stream = await client.post(CHAT, json=chat(asked, logprobs=True, stream=True))
    chunks = [each["choices"][0] for each in chunks_of(stream.text)]
    assert [each["logprobs"] and each["logprobs"]["content"][0]["token"] for each in chunks] == ["one", " two", None]
    assert (await choice_of(client, chat(asked, logprobs=False)))["logprobs"] is None


async def test_what_a_model_thinks_aloud_is_passed_on_and_counted(at: Ours) -> None:
    client, _ = at
    asked = {"role": "user", "content": "[think it over] one two"}
    answer = (await client.post(CHAT, json=chat(asked, reasoning_effort="low"))).json()
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("it over", "one two")
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    stream = await client.post(CHAT, json=chat(asked, stream=True))
    deltas = [each["choices"][0]["delta"] for each in chunks_of(stream.text)]
    assert deltas[0] == {"role": "assistant", "reasoning_content": "it"}
    assert deltas[2] == {"content": "one"}
    back = await choice_of(client, chat(asked, message, {"role": "user", "content": "and?"}, reasoning_effort="none"))
    assert back["message"]["content"] == "and?"


# Refusals


def of_tool(**more: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **more}}]}


@pytest.mark.parametrize(
    ("changed", "param", "names"),
    [
        (of_tool(name="no spaces"), "tools", "name"),
        (of_tool(name="x" * 65), "tools", "name"),
        (of_tool(frobnicate=1), "tools", "frobnicate"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools", "'custom'"),
        ({"tools": TOOLS[:1] * 2}, "tools", "twice"),
        ({"tools": TOOLS * 65}, "tools", "128"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "required"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nowhere"}}},
            *("tool_choice", "nowhere"),
        ),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "allowed_tools is not taken"),
        ({"functions": [WEATHER]}, "functions", "deprecated"),
        ({"function_call": "auto"}, "function_call", "deprecated"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"reasoning_effort": "very much"}, "reasoning_effort", "match"),
        ({"model": "plain", "tools": TOOLS}, "model", "not tools"),
        ({"model": "plain", "logprobs": True}, "model", "not logprobs"),
        ({"model": "plain", "messages": [looking(url_of(PNG))]}, "model", "not vision"),
        (
            {
                "model": "plain",
                "messages": [
                    {"role": "assistant", "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "call_1", "content": "x"},
                ],
            },
            *("model", "not tools"),
        ),
    ],
    ids=lambda each: "" if isinstance(each, str) else str(each)[:60],
)
async def test_what_cannot_be_done_is_refused(at: Ours, changed: dict[str, Any], param: str, names: str) -> None:
    client, services = at
    for stream in (False, True):
        await refused(client, chat(**{"messages": [ASKED], **changed}, stream=stream), param, names)
    assert (await kept(services))["generations"] == 0


async def refused(client: httpx2.AsyncClient, body: dict[str, Any], param: str, names: str) -> None:
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert re.search(re.escape(names), error["message"]), error["message"]


RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
WANTS = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("messages", "names"),
    [
        ([RESULT], "'call_1'"),
        ([ASKED, WANTS, {**RESULT, "tool_call_id": "call_2"}], "'call_2'"),
        ([RESULT, WANTS], "'call_1'"),
        ([ASKED, WANTS, RESULT, RESULT], "'call_1'"),
        ([ASKED, WANTS, ASKED], "no result"),
        ([ASKED, WANTS], "no result"),
        ([{"role": "tool", "content": "x"}], "names the call"),
        ([{**ASKED, "tool_call_id": "call_1"}], "only a tool's"),
        ([{**ASKED, "tool_calls": [CALL]}], "only an assistant's"),
        ([{"role": "assistant"}], "missing"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "missing"),
        ([{"role": "tool", "tool_call_id": "call_1"}], "missing"),
        ([looking("https://example.org/a.png")], "no other URL is fetched"),
        ([looking("http://127.0.0.1/a.png")], "no other URL is fetched"),
        ([looking("file:///etc/passwd")], "no other URL is fetched"),
        ([looking("data:image/svg+xml;base64,PHN2Zz4=")], "data URL"),
        ([looking("data:image/png,abc")], "data URL"),
        ([looking("data:image/png;base64,")], "no picture"),
        ([looking("data:image/png;base64,####")], "base64"),
        ([looking(url_of(PNG)[:-3])], "base64"),
        ([looking(url_of(b"GIF87"))], "no picture"),
        ([looking(url_of(PNG, "jpeg"))], "holds is png"),
        ([looking(url_of(PNG), role="assistant")], "only a user's"),
        ([looking(url_of(PNG), role="system")], "only a user's"),
        ([looking(url_of(PNG), detail="much")], "detail"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], "input_audio"),
    ],
    ids=lambda each: "" if isinstance(each, str) else str(each)[:60],
)
async def test_messages_that_do_not_go_together_are_refused(at: Ours, messages: list[Any], names: str) -> None:
    client, services = at
    await refused(client, chat(*messages, tools=TOOLS), "messages", names)
    assert (await kept(services))["generations"] == 0


async def test_a_picture_that_is_too_large_is_refused(at: Ours) -> None:
    client, _ = at
    answer = await client.post(CHAT, json=chat(looking(url_of(PNG + b"\0" * 10_000_000))))
    assert (answer.status_code, "10000000 bytes" in answer.text) == (413, True)


async def test_completions_give_no_logprobs_and_say_who_does(at: Ours) -> None:
    client, _ = at
    answer = await client.post("/v1/completions", json={"model": "able", "prompt": "x", "logprobs": 2})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
    assert "chat completions do" in answer.json()["error"]["message"]


# Our own API, the same


async def test_our_own_api_shows_calls_and_takes_them_back_as_it_showed_them(at: Ours) -> None:
    client, _ = at
    body = {"model": "able", "messages": [ASKED], "tools": [WEATHER, TIME], "tool_choice": {"name": "weather"}}
    first = (await client.post("/api/v1/generations", json=body)).json()
    assert first["calls"] == [{"id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'}]
    assert first["input"] == {"messages": [ASKED], "tools": [WEATHER, TIME], "tool": "weather"}
    said = {"role": "assistant", "content": first["output"], "calls": first["calls"]}
    result = {"role": "tool", "call_id": "call_1", "content": "warm"}
    body = {"model": "able", "messages": [ASKED, said, result], "tools": [WEATHER]}
    second = (await client.post("/api/v1/generations", json=body)).json()
    assert (second["output"], "calls" in second) == ("warm", False)


async def test_our_own_stream_has_all_in_its_end(at: Ours) -> None:
    client, _ = at
    asked = {"role": "user", "content": "[think it over] one two"}
    body = {"model": "able", "messages": [asked], "logprobs": 1, "reasoning_effort": "high", "stream": True}
    lines = (await client.post("/api/v1/generations", json=body)).text.splitlines()
    done = json.loads(lines[lines.index("event: done") + 1][6:])
    assert (done["output"], done["reasoning"]) == ("one two", "it over")
    assert [each["token"] for each in done["logprobs"]] == ["one", " two"]
    assert done["parameters"] == {"logprobs": 1, "reasoning_effort": "high"}
    body = {"model": "able", "prompt": '[call time {"at": 1}]', "tools": [TIME], "stream": True}
    lines = (await client.post("/api/v1/generations", json=body)).text.splitlines()
    done = json.loads(lines[lines.index("event: done") + 1][6:])
    assert (done["calls"][0]["arguments"], "event: delta" in lines) == ('{"at": 1}', False)


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"messages": [{"role": "tool", "call_id": "x", "content": "y"}]}, "'x'"),
        ({"messages": [{"role": "user"}]}, "missing"),
        ({"messages": [looking("https://example.org/a.png")]}, "no other URL is fetched"),
        ({"tools": [WEATHER], "tool_choice": {"name": "nowhere"}}, "nowhere"),
        ({"logprobs": 21}, "logprobs"),
        ({"model": "plain", "logprobs": 0}, "not logprobs"),
        ({"model": "plain", "tools": [TIME]}, "not tools"),
    ],
    ids=lambda each: "" if isinstance(each, str) else str(each)[:60],
)
async def test_our_own_api_refuses_the_same(at: Ours, changed: dict[str, Any], names: str) -> None:
    client, services = at
    answer = await client.post("/api/v1/generations", json={"model": "able", "messages": [ASKED], **changed})
    assert (answer.status_code, names in answer.json()["detail"]) == (422, True), answer.text
    assert (await kept(services))["generations"] == 0


# As an upstream said it


async def test_a_call_that_an_upstream_streams_goes_on_byte_by_byte_and_is_kept(tmp_path: Path) -> None:
    def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 7, "model": "m"}
        return b"data: %s\n\n" % json.dumps({**head, "choices": [choice]}).encode()

    said = [
        event({"role": "assistant", "reasoning_content": "hm", "vendor": {"kept": True}}),
        event({"tool_calls": [{"index": 0, **CALL, "function": {"name": "weather", "arguments": '{"ci'}}]}),
        event({"tool_calls": [{"index": 0, "function": {"arguments": 'ty": "Paris"}'}}]}),
        event({}, "tool_calls"),
    ]

    async def script(caller: Caller) -> None:
        await caller.events(*said, b"data: [DONE]\n\n")

    rows = tmp_path / "rows.toml"
    async with listening(script) as (url, upstream):
        row = f'[[model]]\nname = "m"\nengine = "openai"\nid = "m"\nurl = "{url}/v1"\n'
        rows.write_text(row + 'abilities = ["chat", "tools"]\n')
        async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, _), client_of(app) as client:
            body = {"model": "m", "messages": [ASKED], "tools": TOOLS, "tool_choice": "required", "stream": True}
            answer = await client.post(CHAT, json=body)
            assert answer.content == b"".join(said) + b"data: [DONE]\n\n"
            found = (await client.get(f"/api/v1/generations/{answer.headers['x-loquent-generation']}")).json()
        assert (found["calls"], found["reasoning"]) == (
            [{"id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'}],
            "hm",
        )
        assert found["finish_reason"] == "tool_calls"
        [sent] = [caller.body for caller in upstream.seen]
        assert (sent["tools"], sent["tool_choice"]) == (TOOLS, "required")
