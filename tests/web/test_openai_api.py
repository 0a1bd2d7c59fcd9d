"""OpenAI's surface on the wire: what goes out, byte by byte, and how refusals are said."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import client_of, kept, serving, token_of
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "one two three"}]
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
        yield client, services


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": HELLO, **more}


def golden(text: str) -> str:
    """What differs from call to call, made the same."""
    text = re.sub(r'"(chatcmpl|cmpl)-[0-9a-f]{32}"', r'"\1-ID"', text)
    return re.sub(r'"created":\d{10}', '"created":0', text)


async def test_a_chat_completion_is_exactly_this(at: Ours) -> None:
    client, _ = at
    answer = await client.post(CHAT, json=chat(max_tokens=2))
    assert answer.headers["content-type"] == "application/json"
    assert golden(answer.text) == (
        '{"id":"chatcmpl-ID","object":"chat.completion","created":0,"model":"echo","choices":[{"index":0,"message":'
        '{"role":"assistant","content":"one two","refusal":null},"logprobs":null,"finish_reason":"length"}],'
        '"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
    )


async def test_a_stream_of_it_is_exactly_this(at: Ours) -> None:
    client, _ = at
    answer = await client.post(CHAT, json=chat(stream=True, stream_options={"include_usage": True}))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    head = '{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"echo","choices":['
    said = (
        '{"index":0,"delta":{"role":"assistant","content":"one"},"logprobs":null,"finish_reason":null}]}',
        '{"index":0,"delta":{"content":" two"},"logprobs":null,"finish_reason":null}]}',
        '{"index":0,"delta":{"content":" three"},"logprobs":null,"finish_reason":null}]}',
        '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}',
        '],"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6}}',
    )
    assert golden(answer.text) == "".join(f"data: {head}{each}\n\n" for each in said) + "data: [DONE]\n\n"
    assert len(set(re.findall(r'"id":"([^"]*)"', answer.text))) == 1
    assert len(set(re.findall(r'"created":(\d+)', answer.text))) == 1


async def test_without_being_asked_for_there_is_no_usage_in_a_stream(at: Ours) -> None:
    client, _ = at
    for options in ({}, {"stream_options": {}}, {"stream_options": {"include_usage": False}}, {"stream_options": None}):
        answer = await client.post(CHAT, json=chat(stream=True, **options))
        assert "usage" not in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_completion_is_exactly_this(at: Ours) -> None:
    client, _ = at
    answer = await client.post(COMPLETION, json={"model": "echo", "prompt": ["one two"], "echo": False})
    assert golden(answer.text) == (
        '{"id":"cmpl-ID","object":"text_completion","created":0,"model":"echo","choices":[{"index":0,"text":"one two",'
        '"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}}'
    )


async def test_a_stream_of_a_completion_is_exactly_this(at: Ours) -> None:
    client, _ = at
    body = {"model": "prompt-only", "prompt": "one two", "stream": True, "stream_options": {"include_usage": True}}
    head = '{"id":"cmpl-ID","object":"text_completion","created":0,"model":"prompt-only","choices":['
    said = (
        '{"index":0,"text":"one","logprobs":null,"finish_reason":null}]}',
        '{"index":0,"text":" two","logprobs":null,"finish_reason":null}]}',
        '{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}',
        '],"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}}',
    )
    answer = await client.post(COMPLETION, json=body)
    assert golden(answer.text) == "".join(f"data: {head}{each}\n\n" for each in said) + "data: [DONE]\n\n"


async def test_models_are_listed_and_got(at: Ours) -> None:
    client, _ = at
    listed = (await client.get("/v1/models")).json()
    assert set(listed) == {"object", "data"}
    assert [each["id"] for each in listed["data"]] == ["echo", "extractive", "prompt-only", "seer"]
    for model in listed["data"]:
        assert (set(model), model["object"]) == ({"id", "object", "created", "owned_by"}, "model")
        assert (await client.get(f"/v1/models/{model['id']}")).json() == model
    assert (await client.get("/v1/models/")).json() == listed


# Refusals


@pytest.mark.parametrize(
    ("changed", "status", "param", "code", "names"),
    [
        ({"n": 2}, 400, "n", "invalid", "n:"),
        ({"n": 0}, 400, "n", "invalid", "n:"),
        ({"temperature": 3}, 400, "temperature", "invalid", "2"),
        ({"temperature": -0.1}, 400, "temperature", "invalid", "0"),
        ({"temperature": "hot"}, 400, "temperature", "invalid", "number"),
        ({"top_p": 1.5}, 400, "top_p", "invalid", "1"),
        ({"max_tokens": 0}, 400, "max_tokens", "invalid", "1"),
        ({"max_completion_tokens": -1}, 400, "max_completion_tokens", "invalid", "1"),
        ({"frobnicate": 1}, 400, "frobnicate", "invalid", "frobnicate"),
        ({"frequency_penalty": 1}, 400, "frequency_penalty", "invalid", "frequency_penalty"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop", "invalid", "4"),
        ({"messages": []}, 400, "messages", "invalid", "messages"),
        ({"messages": [{"role": "user"}]}, 400, "messages", "invalid", "content"),
        ({"messages": [{"role": "function", "content": "x"}]}, 400, "messages", "invalid", "role"),
        ({"response_format": {"type": "poem"}}, 400, "response_format", "invalid", "response_format"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format", "invalid", "schema"),
        ({"model": "gpt-9"}, 404, "model", "model_not_found", "gpt-9"),
        ({"model": "prompt-only"}, 400, "model", "invalid", "prompt-only"),
        (
            {"messages": [{"role": "user", "content": "word " * 2_000}]},
            400,
            "messages",
            "context_length_exceeded",
            "1000",
        ),
    ],
    ids=lambda each: "" if isinstance(each, int | str) or each is None else str(each)[:40],
)
async def test_a_refusal_names_what_is_wrong(
    at: Ours, changed: dict[str, Any], status: int, param: str, code: str, names: str
) -> None:
    client, _ = at
    for stream in (False, True):
        answer = await client.post(CHAT, json=chat(**changed, stream=stream))
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
        assert error["type"] == "invalid_request_error"
        assert names in error["message"]


async def test_models_that_are_not_there_are_said_as_openai_does(at: Ours) -> None:
    client, _ = at
    for path in ("/v1/models/gpt-9", "/v1/models/gpt-9/", "/v1/models/a/b"):
        answer = await client.get(path)
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    answer = await client.get("/v1/nowhere")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [("[fail] x", 502, "engine_failed"), ("[away] x", 503, "unavailable"), ("[busy 2] x", 503, "engine_busy")],
)
async def test_an_engines_fault_is_a_server_error(at: Ours, prompt: str, status: int, code: str) -> None:
    client, _ = at
    answer = await client.post(CHAT, json=chat(messages=[{"role": "user", "content": prompt}]))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (status, "server_error", code)


async def test_over_the_rate_is_said_in_both_dialects(tmp_path: Path) -> None:
    limit = {"LOQUENT_LIMIT_GENERATIONS": "1/minute"}
    async with serving(tmp_path, **limit) as (app, services), client_of(app) as client:
        fine = await client.post(CHAT, json=chat())
        assert (fine.headers["x-ratelimit-limit-requests"], fine.headers["x-ratelimit-remaining-requests"]) == (
            "1",
            "0",
        )
        answer = await client.post(CHAT, json=chat())
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert 0 < int(answer.headers["retry-after-ms"]) <= 60_000
        assert (await kept(services))["generations"] == 1


async def test_who_is_not_known_is_told_so_in_openais_words(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, LOQUENT_ANONYMOUS="off") as (app, _), client_of(app) as client:
        for path in (CHAT, COMPLETION):
            error = (await client.post(path, json=chat())).json()["error"]
            assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)
        for path in ("/v1/models", "/v1/models/echo"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers={"authorization": "Bearer sk-x"})).status_code == 401


# What is taken


@pytest.mark.parametrize(
    ("changed", "output", "reason"),
    [
        ({"stop": "two"}, "one", "stop"),
        ({"stop": ["three", "nowhere"]}, "one two", "stop"),
        ({"stop": None}, "one two three", "stop"),
        ({"max_tokens": 1}, "one", "length"),
        ({"max_completion_tokens": 2}, "one two", "length"),
        ({"max_completion_tokens": 1, "max_tokens": 3}, "one", "length"),
        ({"n": 1, "seed": -5, "user": "u", "logit_bias": {}, "presence_penalty": 0}, "one two three", "stop"),
        (
            {"seed": 2**63 - 1, "top_p": 1, "temperature": 2, "metadata": {"a": "b"}, "store": False},
            "one two three",
            "stop",
        ),
        ({"response_format": {"type": "text"}}, "one two three", "stop"),
        ({"response_format": {"type": "json_object"}}, "{}", "stop"),
        (
            {"messages": [{"role": "developer", "content": "Be kind."}, *HELLO]},
            *("one two three", "stop"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "name": "ann", "content": [{"type": "text", "text": t} for t in ("one ", "two")]}
                ]
            },
            *("one two", "stop"),
        ),
        (
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": "yes", "refusal": None},
                    {"role": "user", "content": "go on"},
                ]
            },
            *("go on", "stop"),
        ),
    ],
    ids=lambda each: "" if isinstance(each, str) else str(each)[:50],
)
async def test_what_sdks_send_is_taken(at: Ours, changed: dict[str, Any], output: str, reason: str) -> None:
    client, _ = at
    answer = await client.post(CHAT, json=chat(**changed))
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    assert (choice["message"]["content"].strip(), choice["finish_reason"]) == (output, reason)
    stream = await client.post(CHAT, json=chat(**changed, stream=True))
    chunks = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chunks).strip() == output
    assert [each["choices"][0]["finish_reason"] for each in chunks] == [None] * (len(chunks) - 1) + [reason]


async def test_a_json_schema_is_kept_to(at: Ours) -> None:
    client, _ = at
    schema = {"type": "object", "properties": {"name": {"type": "string", "minLength": 2}}, "required": ["name"]}
    wish = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    answer = await client.post(CHAT, json=chat(response_format=wish))
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"name": "xx"}


async def test_it_is_the_same_history_as_everywhere(at: Ours) -> None:
    client, _ = at
    answer = await client.post(CHAT, json=chat(temperature=0.5))
    [listed] = (await client.get("/api/v1/generations")).json()["data"]
    assert answer.headers["x-loquent-generation"] == listed["id"]
    assert answer.json()["id"] == f"chatcmpl-{listed['id'].removeprefix('gen_')}"
    assert (listed["kind"], listed["surface"], listed["parameters"]) == ("chat", "openai", {"temperature": 0.5})
    found = (await client.get(f"/api/v1/generations/{listed['id']}")).json()
    assert (found["input"], found["output"]) == ({"messages": HELLO}, "one two three")


async def test_any_key_will_do_where_anonymous_callers_are_served(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False) as (app, _), client_of(app) as client:
        for key in ("sk-anything", "x", "not-needed"):
            headers = {"authorization": f"Bearer {key}"}
            assert (await client.post(CHAT, json=chat(), headers=headers)).status_code == 200
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
            assert (await client.get("/v1/models/echo", headers=headers)).status_code == 200
        bad = {"authorization": f"Bearer {'a' * 20}.{'b' * 20}.{'c' * 20}"}
        assert (await client.post(CHAT, json=chat(), headers=bad)).status_code == 401
        assert (await client.get("/v1/models", headers=bad)).status_code == 401
