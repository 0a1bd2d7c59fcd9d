"""The official OpenAI SDK, newest, against a real server: it is the judge of our /v1."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from serving import Served, served

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120), pytest.mark.xdist_group("openai-sdk")]

HELLO = [{"role": "user", "content": "one two three"}]
USAGE = (3, 3, 6)
Server = tuple[Served, str]


@pytest.fixture(scope="module", params=["granian", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server where one must log in, and somebody's token."""
    folder = tmp_path_factory.mktemp(request.param)
    with served(
        folder, LOQUENT_SERVER=request.param, LOQUENT_ANONYMOUS="off", LOQUENT_CHECKPOINT_SECONDS="0.1"
    ) as found:
        yield found, token(found)


@pytest.fixture
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
    assert [model.id for model in listed] == ["echo", "extractive", "prompt-only", "seer"]
    assert client.models.retrieve("echo") == listed[0]


def test_a_json_schema(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 7}}, "required": ["age"]}
    wish = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = client.chat.completions.create(model="echo", messages=HELLO, response_format=wish)
    assert json.loads(answer.choices[0].message.content or "") == {"age": 7}


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
            assert [model.id async for model in client.models.list()] == ["echo", "extractive", "prompt-only", "seer"]

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
