"""The official OpenAI SDK, newest, asks a real server for responses: it is the judge of /v1/responses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import (
    Response,
    ResponseFunctionToolCall,
    ResponseInputMessageItem,
    ResponseItem,
    ResponseStreamEvent,
)
from pydantic import BaseModel, TypeAdapter

from serving import Served, served

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120), pytest.mark.xdist_group("responses-sdk")]

TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "how the weather is",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
ORDER = '[call weather {"city": "Oslo"}] how is it in Oslo?'


class Person(BaseModel):
    """What an answer is parsed into."""

    age: int
    nick: str


class Weather(BaseModel):
    """What a call's arguments are parsed into."""

    city: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("responses"), LOQUENT_CHECKPOINT_SECONDS="0.1") as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="sk-anything", max_retries=0) as made:
        yield made


def over(client: OpenAI, response: Response) -> Response:
    """Polled as the documentation shows it."""
    until = time.monotonic() + 30
    while response.status in {"queued", "in_progress"}:
        assert time.monotonic() < until, "it does not come to its end"
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response


def test_a_response_is_made_got_and_erased(client: OpenAI) -> None:
    made = client.responses.create(
        model="echo", input="one two three", instructions="be brief", metadata={"order": "66"}, temperature=0.5
    )
    assert (made.object, made.status, made.output_text) == ("response", "completed", "one two three")
    assert (made.instructions, made.metadata, made.temperature) == ("be brief", {"order": "66"}, 0.5)
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    assert client.responses.retrieve(made.id) == made
    include: Any = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    assert client.responses.retrieve(made.id, include=include) == made, "a list in the query"
    [item] = list(client.responses.input_items.list(made.id))
    assert isinstance(item, ResponseInputMessageItem)
    assert (item.type, item.role) == ("message", "user")
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_input_items_come_in_pages(client: OpenAI) -> None:
    said: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    made = client.responses.create(model="echo", input=said)
    listed: Any = list(client.responses.input_items.list(made.id, limit=2, order="asc"))
    assert [each.content[0].text for each in listed] == ["0", "1", "2", "3", "4"]


def test_a_stream_of_typed_events(client: OpenAI) -> None:
    events = list(client.responses.create(model="echo", input="[think hm] one two three", stream=True))
    assert [each.sequence_number for each in events] == list(range(len(events)))
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == "one two three"
    last = events[-1]
    assert last.type == "response.completed"
    assert [each.type for each in last.response.output] == ["reasoning", "message"]
    assert last.response == client.responses.retrieve(last.response.id)


def test_the_sdks_own_stream_gathers_it(client: OpenAI) -> None:
    with client.responses.stream(model="echo", input="[think hm] one two three") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (final.output_text, final.status) == ("one two three", "completed")
    assert kinds.count("response.output_text.delta") == 3
    with client.responses.stream(model="echo", input=f"{ORDER} [call other]", tools=[TOOL]) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.function_call_arguments.delta"]
        calls = stream.get_final_response().output
    assert [each.arguments for each in calls if each.type == "function_call"] == ['{"city": "Oslo"}', "{}"]
    assert '{"city": "Oslo"}' in snapshots


def test_an_answer_is_parsed(client: OpenAI) -> None:
    made = client.responses.parse(model="echo", input="who is it?", text_format=Person)
    assert made.output_parsed == Person(age=0, nick="")
    with client.responses.stream(model="echo", input="who is it?", text_format=Person) as stream:
        done = [event.parsed for event in stream if event.type == "response.output_text.done"]
    assert done == [Person(age=0, nick="")]
    tool = openai.pydantic_function_tool(Weather, name="weather")
    called = client.responses.parse(model="echo", input=ORDER, tools=[tool])
    [call] = called.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert call.parsed_arguments == Weather(city="Oslo")
    back: Any = [{"role": "user", "content": "how is it?"}, *made.output, *called.output]
    back.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    assert client.responses.create(model="echo", input=back).output_text == "sunny"


def test_tools_go_round_with_the_items_or_by_the_chain(client: OpenAI) -> None:
    said: Any = [{"role": "user", "content": f"[think hm] {ORDER}"}]
    first = client.responses.create(model="echo", input=said, tools=[TOOL], tool_choice="required")
    [call] = [each for each in first.output if each.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"})
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "it rains"}
    said += [*first.output, result]
    whole = client.responses.create(model="echo", input=said, tools=[TOOL])
    chain = client.responses.create(model="echo", input=[result], previous_response_id=first.id, tools=[TOOL])
    assert whole.output_text == chain.output_text == "it rains"
    assert chain.previous_response_id == first.id
    with pytest.raises(openai.BadRequestError, match="no result"):
        client.responses.create(model="echo", input="go on", previous_response_id=first.id)


def test_one_in_the_background_is_polled_to_its_end(client: OpenAI) -> None:
    made = client.responses.create(model="echo", input="[slow 0.05] one two three", background=True)
    assert made.status in {"queued", "in_progress"}
    done = over(client, made)
    assert (done.status, done.output_text, done.background) == ("completed", "one two three", True)
    failed = over(client, client.responses.create(model="echo", input="[fail] x", background=True))
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "server_error"


def test_one_in_the_background_is_cancelled(client: OpenAI) -> None:
    made = client.responses.create(model="echo", input="[slow 0.01] [words 5000] word", background=True)
    while client.responses.retrieve(made.id).status == "queued":
        time.sleep(0.01)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(client.responses.create(model="echo", input="x").id)


def test_a_stream_of_one_in_the_background_goes_on_after_a_break(client: OpenAI) -> None:
    stream = client.responses.create(model="echo", input="[slow 0.01] [words 100] on", background=True, stream=True)
    seen, id, number = "", "", -1
    for event in stream:
        number = event.sequence_number
        if event.type == "response.created":
            id = event.response.id
        if event.type == "response.output_text.delta":
            seen += event.delta
            break
    stream.close()
    assert seen
    with client.responses.retrieve(id, stream=True, starting_after=number) as rest:
        for event in rest:
            assert event.sequence_number > number
            if event.type == "response.output_text.delta":
                seen += event.delta
    assert seen == " ".join(["on"] * 100)
    with client.responses.stream(response_id=id, starting_after=number) as gathered:
        assert gathered.get_final_response().output_text == seen


@pytest.mark.parametrize(
    "said", ["[think hm] one", f"{ORDER} [call weather]", "[cut 1] one two", "[words 90] cut off", "[json] x"]
)
@pytest.mark.parametrize("background", [False, True])
def test_all_that_is_said_is_of_the_types_that_the_sdk_declares(client: OpenAI, said: str, background: bool) -> None:
    stream = client.responses.create(
        model="echo",
        input=said,
        instructions="x",
        tools=[TOOL],
        stream=True,
        background=background,
        max_output_tokens=50,
        top_logprobs=1,
        include=["message.output_text.logprobs"],
        reasoning={"effort": "low"},
    )
    declared = TypeAdapter[ResponseStreamEvent](ResponseStreamEvent)
    events = [declared.validate_python(each.to_dict(mode="json")) for each in stream]
    last = events[-1]
    assert last.type in {"response.completed", "response.failed", "response.incomplete"}
    Response.model_validate(client.responses.retrieve(last.response.id).to_dict(mode="json"))
    for item in client.responses.input_items.list(last.response.id):
        TypeAdapter(ResponseItem).validate_python(item.to_dict(mode="json"))


def test_errors_have_their_types(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-9", input="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="echo", input="x", previous_response_id="resp_nothing")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="echo", input="x", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools"
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="echo", input="[fail] x")
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="echo", input="[away] x", stream=True)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="a.b.c").responses.retrieve("resp_nothing")
    events = list(client.responses.create(model="echo", input="[cut 2] one two three", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "cut" in last.response.error.message


def test_a_stream_that_is_closed_frees_the_engine(server: Served, client: OpenAI) -> None:
    stream = client.responses.create(model="echo", input="[slow 0.01] [words 5000] word", stream=True)
    next(iter(stream))
    assert server.metric("loquent_running_generations") == 1
    stream.close()
    until = time.monotonic() + 10
    while server.metric("loquent_running_generations"):
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.02)
