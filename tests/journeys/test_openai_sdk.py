"""The official OpenAI SDK, newest, against a real server: it is the judge of our /v1."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from built import ROWS
from contract.engines import WEIGHTS, weights
from samples import pictures
from serving import Served, served

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120), pytest.mark.xdist_group("openai-sdk")]

HELLO = [{"role": "user", "content": "one two three"}]
USAGE = (3, 3, 6)
Server = tuple[Served, str]
MORE = f"""
[[model]]
name = "eyes"
engine = "echo"
id = "echo"
abilities = ["chat", "vision"]

[[model]]
name = "small"
engine = "llama"
id = "{WEIGHTS}"
abilities = ["chat", "json_schema"]
defaults = {{temperature = 0, max_tokens = 200}}
"""
NAMES = ["echo", "extractive", "prompt-only", "seer", "eyes", "small"]


class Weather(BaseModel):
    """Tells what the weather is like."""

    city: str
    days: int


class Fruit(BaseModel):
    """What a model is to say of a fruit."""

    name: Literal["apple", "banana"]
    colour: Literal["red", "yellow", "blue"]
    is_sweet: bool


CALLED = '[call Weather {"city": "Paris", "days": 2}] How will it be?'
TOOL: Any = pydantic_function_tool(Weather)


@pytest.fixture(scope="module", params=["granian", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server where one must log in, and somebody's token."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "models.toml").write_text(ROWS + MORE)
    environ = {
        "LOQUENT_SERVER": request.param,
        "LOQUENT_ANONYMOUS": "off",
        "LOQUENT_CHECKPOINT_SECONDS": "0.1",
        "LOQUENT_MODELS_DIR": str(weights().parent),
        "LOQUENT_LLAMA_CONTEXT": "2048",
    }
    with served(folder, **environ) as found:
        yield found, token(found)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server[0].url}/v1", api_key=server[1], max_retries=0) as made:
        yield made


def token(server: Served) -> str:
    """What a user gets who registers and logs in."""
    import httpx2

    form = {"username": "ann", "password": "a long enough one"}
    assert httpx2.post(f"{server.url}/api/v1/users", json=form).status_code == 201
    return str(httpx2.post(f"{server.url}/api/v1/token", data=form).json()["access_token"])


def test_a_chat_completion(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=HELLO, seed=7, stop=["three"], temperature=0.5)
    [choice] = answer.choices
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", "echo", "assistant")
    assert (choice.message.content, choice.finish_reason) == ("one two", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    cut = client.chat.completions.create(model="echo", messages=HELLO, max_completion_tokens=1)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("one", "length")


def test_a_stream_with_usage(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    *said, last = chunks
    assert "".join(each.choices[0].delta.content or "" for each in said) == "one two three"
    assert [each.choices[0].finish_reason for each in said] == [None] * (len(said) - 1) + ["stop"]
    assert said[0].choices[0].delta.role == "assistant"
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == USAGE
    assert len({each.id for each in chunks}) == 1


def test_the_sdks_own_stream_gathers_it(client: OpenAI) -> None:
    with client.chat.completions.stream(model="echo", messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "one two three"
    assert kinds.count("content.delta") == 3
    assert "content.done" in kinds


def test_completions_whole_and_as_a_stream(client: OpenAI) -> None:
    answer = client.completions.create(model="prompt-only", prompt="one two three")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two three", "stop")
    with client.completions.create(model="prompt-only", prompt="one two three", stream=True) as stream:
        chunks = list(stream)
    assert "".join(each.choices[0].text for each in chunks) == "one two three"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_models(client: OpenAI) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed] == NAMES
    assert client.models.retrieve("echo") == listed[0]


def test_a_json_schema(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 7}}, "required": ["age"]}
    wish = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = client.chat.completions.create(model="echo", messages=HELLO, response_format=wish)
    assert json.loads(answer.choices[0].message.content or "") == {"age": 7}


def test_a_tool_is_called_and_its_result_is_answered(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": CALLED}]
    first = client.chat.completions.create(model="echo", messages=messages, tools=[TOOL], tool_choice="auto")
    [choice] = first.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert Weather.model_validate_json(call.function.arguments) == Weather(city="Paris", days=2)
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "Sunny, then rain."}]
    second = client.chat.completions.create(model="echo", messages=messages, tools=[TOOL])
    assert (second.choices[0].message.content, second.choices[0].finish_reason) == ("Sunny, then rain.", "stop")
    wants = {"type": "function", "function": {"name": "Weather"}}
    made = client.chat.completions.create(model="echo", messages=HELLO, tools=[TOOL], tool_choice=wants)  # type: ignore[call-overload]
    assert made.choices[0].message.tool_calls[0].function.name == "Weather"


def test_the_sdks_own_stream_gathers_a_call_and_parses_it(client: OpenAI) -> None:
    kinds: list[str] = []
    with client.chat.completions.stream(
        model="echo",
        messages=[{"role": "user", "content": CALLED}],
        tools=[TOOL],
        stream_options={"include_usage": True},
    ) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "tool_calls.function.arguments.done":
                assert event.parsed_arguments == Weather(city="Paris", days=2)
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert kinds.count("tool_calls.function.arguments.delta") > 1
    assert final.usage is not None
    [choice] = final.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert (call.id, call.function.parsed_arguments) == ("call_1", Weather(city="Paris", days=2))


def test_parallel_calls_are_streamed_side_by_side(client: OpenAI) -> None:
    asked = f"{CALLED} {CALLED.replace('Paris', 'Rome')}"
    with client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": asked}], tools=[TOOL], stream=True
    ) as stream:
        pieces = [piece for each in stream for piece in each.choices[0].delta.tool_calls or []]
    said = dict.fromkeys((piece.index for piece in pieces), "")
    for piece in pieces:
        said[piece.index] += (piece.function and piece.function.arguments) or ""
    assert [json.loads(said[index])["city"] for index in (0, 1)] == ["Paris", "Rome"]
    assert len({piece.id for piece in pieces if piece.id}) == 2


def test_a_picture_is_looked_at(client: OpenAI) -> None:
    data = pictures.plain("PNG")
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    parts: list[Any] = [
        {"type": "text", "text": "[look]"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    answer = client.chat.completions.create(model="eyes", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == f"1 picture: image/png of {len(data)} bytes"
    parts[1]["image_url"]["url"] = "https://example.org/a.png"
    with pytest.raises(openai.BadRequestError, match="no other URL is fetched"):
        client.chat.completions.create(model="eyes", messages=[{"role": "user", "content": parts}])
    with pytest.raises(openai.BadRequestError, match="not vision"):
        parts[1]["image_url"]["url"] = url
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": parts}])


def test_embeddings_in_the_sdks_own_encoding_and_as_numbers(client: OpenAI) -> None:
    texts = ["the old harbour", "something else"]
    packed = client.embeddings.create(model="echo", input=texts)
    plain = client.embeddings.create(model="echo", input=texts, encoding_format="float")
    assert [each.index for each in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one.embedding, other.embedding, strict=True))
    assert (packed.model, packed.usage.prompt_tokens, packed.usage.total_tokens) == ("echo", 5, 5)
    short = client.embeddings.create(model="echo", input=texts[0], dimensions=8, user="u")
    assert len(short.data[0].embedding) == 8
    with pytest.raises(openai.BadRequestError, match="tokens are not taken"):
        client.embeddings.create(model="echo", input=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="not embeddings"):
        client.embeddings.create(model="eyes", input="x")


def test_how_likely_the_tokens_were(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=HELLO, logprobs=True, top_logprobs=2)
    told = answer.choices[0].logprobs
    assert told is not None
    assert [each.token for each in told.content or []] == ["one", " two", " three"]
    assert [len(each.top_logprobs) for each in told.content or []] == [2, 2, 2]
    with client.chat.completions.stream(model="echo", messages=HELLO, logprobs=True) as stream:
        kinds = [event.type for event in stream]
    assert kinds.count("logprobs.content.delta") == 3


def test_what_a_model_thinks_comes_along(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "[think it over] one two"}]
    answer = client.chat.completions.create(model="echo", messages=messages, reasoning_effort="low")
    message = answer.choices[0].message
    assert (message.content, message.to_dict()["reasoning_content"]) == ("one two", "it over")
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2
    again = client.chat.completions.create(model="echo", messages=[*messages, message, *HELLO])
    assert again.choices[0].message.content == "one two three"


@pytest.mark.model
def test_a_real_model_says_what_can_be_parsed(client: OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "Which fruit is long and yellow?"}]
    patient = client.with_options(max_retries=5)  # the model may still be loading
    answer = patient.chat.completions.parse(model="small", messages=asked, response_format=Fruit, seed=7)
    said = answer.choices[0].message
    assert isinstance(said.parsed, Fruit)
    assert Fruit.model_validate_json(said.content or "") == said.parsed
    with patient.chat.completions.stream(model="small", messages=asked, response_format=Fruit, seed=7) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == said.parsed


def test_errors_have_their_types(server: Server, client: OpenAI) -> None:
    for bad in ("sk-nobody", server[1][:-3] + "AAA"):
        with pytest.raises(openai.AuthenticationError) as unknown:
            client.with_options(api_key=bad).chat.completions.create(model="echo", messages=HELLO)
        assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="echo", messages=HELLO, n=2)
    assert (refused.value.param, refused.value.status_code) == ("n", 400)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="echo", messages=HELLO, extra_body={"frobnicate": 1})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "[fail] x"}])
    assert refused.value.request_id


def test_a_fault_in_mid_stream_is_raised(client: OpenAI) -> None:
    said = []
    messages = [{"role": "user", "content": "[cut 2] one two three"}]
    with (
        pytest.raises(openai.APIError, match="cut, as the prompt said"),
        client.chat.completions.create(model="echo", messages=messages, stream=True) as stream,
    ):
        for chunk in stream:
            said.append(chunk.choices[0].delta.content)  # noqa: PERF401  (what came before the fault counts)
    assert said == ["one", " two"]


def test_a_stream_that_is_closed_in_mid_answer_frees_the_engine(server: Server, client: OpenAI) -> None:
    messages = [{"role": "user", "content": "[slow 0.01] [words 5000] word"}]
    stream = client.chat.completions.create(model="echo", messages=messages, stream=True)
    next(iter(stream))
    assert server[0].metric("loquent_running_generations") == 1
    stream.close()
    until = time.monotonic() + 10
    while server[0].metric("loquent_running_generations"):
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.02)


def test_a_call_that_times_out_frees_the_engine(server: Server, client: OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "[hang] x"}]
        )
    until = time.monotonic() + 10
    while server[0].metric("loquent_running_generations"):
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.02)


def test_the_asynchronous_client(server: Server) -> None:
    async def talk() -> None:
        async with AsyncOpenAI(base_url=f"{server[0].url}/v1", api_key=server[1], max_retries=0) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(model="echo", messages=[{"role": "user", "content": f"number {n}"}])
                    for n in range(20)
                )
            )
            assert [answer.choices[0].message.content for answer in answers] == [f"number {n}" for n in range(20)]
            stream = await client.chat.completions.create(model="echo", messages=HELLO, stream=True)
            async with stream:
                assert [each.choices[0].delta.content async for each in stream] == ["one", " two", " three", None]
            assert [model.id async for model in client.models.list()] == NAMES

    asyncio.run(talk())


def test_over_the_rate_the_sdk_waits_as_told_and_succeeds(tmp_path: Path) -> None:
    with (
        served(tmp_path, LOQUENT_LIMIT_GENERATIONS="2/second") as found,
        OpenAI(base_url=f"{found.url}/v1", api_key="none", max_retries=0) as client,
    ):

        def ask(retries: int) -> None:
            client.with_options(max_retries=retries).chat.completions.create(model="echo", messages=HELLO)

        with pytest.raises(openai.RateLimitError) as refused:
            for _ in range(50):
                ask(0)
        assert 0 < int(refused.value.response.headers["retry-after-ms"]) <= 1_000
        assert refused.value.type == "rate_limit_error"
        ask(2)
