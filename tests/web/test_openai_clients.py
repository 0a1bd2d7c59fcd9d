"""What popular clients of OpenAI's API send, as they sent it, and how they know what was answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import client_of, serving, token_of
from loquent.web.compat.openai_ask import ChatCompletion
from loquent.web.quick import usual

pytestmark = pytest.mark.anyio

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
ROWS = """
[[model]]
name = "able"
engine = "echo"
id = "echo"
abilities = ["text", "chat", "tools"]
context = 50
"""
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "w", "parameters": PARAMETERS}
ORDER = '[call get_weather {"city": "Paris"}] How is it?'
CALLED = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    rows = tmp_path / "rows.toml"
    rows.write_text(ROWS)
    async with (
        serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, services),
        client_of(app, token_of(services, "ann")) as client,
    ):
        yield client


async def said(client: httpx2.AsyncClient, *messages: Any, **more: Any) -> Any:
    answer = await client.post(CHAT, json={"model": "able", "messages": messages, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


async def responded(client: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post(RESPONSES, json={"model": "able", **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def text_of(response: dict[str, Any]) -> Any:
    return response["output"][-1]["content"][0]["text"]


def turn(**beside: Any) -> list[dict[str, Any]]:
    """A call and its result, told again."""
    answer = {"role": "assistant", "tool_calls": [CALLED], **beside}
    return [{"role": "user", "content": ORDER}, answer, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(turn(provider_specific_fields={"refusal": None}), id="LiteLLM, an answer told again"),
        pytest.param(
            turn(content=None, tool_calls=[{**CALLED, "index": 0}]), id="the pieces of a stream, put together"
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "text", "text": "sunny", "cache_control": {"type": "ephemeral"}}]}],
            id="LiteLLM and Aider, with a cache of prompts",
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "text", "text": "sunny", "prompt_cache_breakpoint": {}}]}],
            id="the newest SDK, with a cache of prompts",
        ),
    ],
)
async def test_what_changes_nothing_in_a_message_is_taken(client: httpx2.AsyncClient, messages: list[Any]) -> None:
    assert await said(client, *messages, tools=[{"type": "function", "function": WEATHER}]) == "sunny"


async def test_hints_that_only_make_an_answer_sooner_are_taken(client: httpx2.AsyncClient) -> None:
    hints = {"prediction": {"type": "content", "content": "sunny"}, "prompt_cache_options": {}}
    assert await said(client, {"role": "user", "content": "sunny"}, **hints) == "sunny"


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("stream", [True, False])
async def test_clients_read_from_the_message_that_a_context_is_too_small(
    client: httpx2.AsyncClient, path: str, stream: bool
) -> None:
    """LangChain and LiteLLM look for the first words, CrewAI for the code; the SDK may show them nothing else."""
    long = "word " * 60
    asked = {"messages": [{"role": "user", "content": long}]} if path == CHAT else {"input": long}
    answer = await client.post(path, json={"model": "able", **asked, "stream": stream})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["message"].startswith("Input tokens exceed the configured limit (context_length_exceeded): ")
    assert "50" in error["message"]


TOOL = {"type": "function", **WEATHER}
ASKED = {"role": "user", "content": [{"type": "input_text", "text": ORDER}]}
CODEX = [
    {"type": "function_call", "name": "get_weather", "arguments": '{"city": "Paris"}', "call_id": "call_1"},
    {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
]


async def test_semantic_kernel_says_again_what_it_asked_before_each_result(client: httpx2.AsyncClient) -> None:
    first = await responded(client, input=[ASKED], tools=[TOOL])
    body = {"input": [ASKED, RESULT], "previous_response_id": first["id"], "tools": [TOOL], "text": {}, "metadata": {}}
    second = await responded(client, **body)
    assert text_of(second) == "sunny", "the result is what is answered, not the question again"
    listed = (await client.get(f"{RESPONSES}/{second['id']}/input_items?order=asc")).json()["data"]
    assert [each["type"] for each in listed] == ["message", "message", "function_call", "function_call_output"]
    more = [RESULT, {"role": "user", "content": "and then"}]
    third = await responded(client, **{**body, "previous_response_id": second["id"], "input": more})
    assert text_of(third) == "and then", "a result that is told again says nothing new"


async def test_the_sdks_own_form_of_an_answer_may_be_told_again(client: httpx2.AsyncClient) -> None:
    """As ``item.model_dump()`` of the SDK for Python has it, with nulls for what was not there."""
    call = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}", "id": "fc_1"}
    dumped = {**call, "status": "completed", "async_": None, "caller": None, "namespace": None}
    thought = {"id": "rs_1", "type": "reasoning", "summary": [], "content": None, "encrypted_content": None}
    items = [ASKED, {**thought, "status": "completed"}, dumped, {**RESULT, "name": "get_weather", "caller": None}]
    assert text_of(await responded(client, input=items, tools=[TOOL])) == "sunny"
    answer = await client.post(RESPONSES, json={"model": "able", "input": [ASKED, {**call, "async": True}, RESULT]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


async def test_agents_that_ask_for_room_are_told_that_nothing_is_left_out(client: httpx2.AsyncClient) -> None:
    made = await responded(client, input="one two", truncation="auto", include=[], tools=[], prompt_cache_options={})
    assert (text_of(made), made["truncation"]) == ("one two", "disabled")


async def test_codex_says_things_of_its_own_beside_what_it_asks(client: httpx2.AsyncClient) -> None:
    body = {
        "input": [{"type": "message", "id": "msg_7a4ad6e1-36f2-59db-b8f8-d2fac22caf7c", **ASKED}, *CODEX],
        "tools": [{**TOOL, "strict": False}],
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "client_metadata": {"turn_id": "01"},
    }
    assert text_of(await responded(client, **body)) == "sunny"


LANGCHAIN = b'{"model":"able","stream":false,"messages":[{"content":"Say hi","role":"user"}]}'
AI_SDK = (
    b'{"model":"able","max_tokens":20,"messages":[{"role":"user","content":"Say hi"}],"stream":true,'
    b'"stream_options":{"include_usage":true}}'
)
PYDANTIC_AI = b'{"messages":[{"role":"user","content":"Say hi"}],"model":"able","stream":false}'


@pytest.mark.parametrize("body", [LANGCHAIN, AI_SDK, PYDANTIC_AI])
def test_the_plain_asks_of_clients_are_read_quickly(body: bytes) -> None:
    assert usual(ChatCompletion, body) is not None
