"""The server that stands for Anthropic's API: its own SDK says that the wire is right, and the engine reads the same.

What the SDK, sync and async, makes of an answer is what the engine has to make of it, whole and streamed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from anthropic_checks import STATUSES
from anthropic_server import anthropic_server
from later import Later
from loquent.domain.errors import EngineBusy, EngineFailed, Invalid, LoquentError, TooLarge, Unavailable
from loquent.domain.models import Model
from loquent.domain.requests import NONE, REQUIRED, Message, Parameters, Picture, Tool, ToolCall
from loquent.domain.usage import Usage
from loquent.engines import Options, connect
from loquent.ports.engine import Ask, Chunk, Engine

if TYPE_CHECKING:
    import anthropic
else:
    anthropic = Later("anthropic")  # takes two seconds

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("anthropic")]

KEY = "a-key-of-this-test"
PNG = Picture("image/png", b"\x89PNG not really")
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"name": "weather", "description": "Tells the weather.", "input_schema": CITY}
CLOCK: Any = {"name": "clock", "input_schema": {"type": "object"}}
PARIS = '[call weather {"city": "Paris"}]'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with anthropic_server(KEY, context=50) as url:
        yield url


@pytest.fixture
def sdk(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=0) as made:
        yield made


@contextmanager
def failing() -> Iterator[Any]:
    with pytest.raises(anthropic.APIError) as refused:
        yield refused


def say(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "echo", "max_tokens": 40, "messages": [{"role": "user", "content": text}], **more}


@asynccontextmanager
async def asynchronous(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0) as made:
        yield made


async def messages(url: str, sdk: anthropic.Anthropic, **wanted: Any) -> list[anthropic.types.Message]:
    """The same, asked in each of the SDK's four ways."""
    async with asynchronous(url) as other:
        made = [sdk.messages.create(**wanted), await other.messages.create(**wanted)]
        with sdk.messages.stream(**wanted) as stream:
            made.append(stream.get_final_message())
        async with other.messages.stream(**wanted) as streamed:
            made.append(await streamed.get_final_message())
    return made


def blocks(message: anthropic.types.Message) -> list[Any]:
    return [block for block in message.content if block.type != "thinking"]


# The SDK.


async def test_a_message_is_the_same_in_each_way_it_is_asked_for(url: str, sdk: anthropic.Anthropic) -> None:
    for message in await messages(url, sdk, **say("one two three four", max_tokens=2, system="Be brief, be kind.")):
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert (blocks(message)[0].text, message.stop_reason) == ("one two", "max_tokens")
        used = message.usage
        assert (used.input_tokens, used.cache_creation_input_tokens, used.cache_read_input_tokens) == (2, 2, 4)
        assert used.output_tokens == 2


async def test_a_stop_sequence_is_named(url: str, sdk: anthropic.Anthropic) -> None:
    for message in await messages(url, sdk, **say("a b STOP c", stop_sequences=["never", "STOP"])):
        assert blocks(message)[0].text.strip() == "a b"
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "STOP")


def test_the_events_of_a_stream_come_in_the_documented_order(sdk: anthropic.Anthropic) -> None:
    asked = say(f"Let me see. {PARIS}", tools=[WEATHER])
    kinds = [event.type for event in sdk.messages.create(**asked, stream=True)]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [kind for n, kind in enumerate(kinds) if kind != (kinds[n - 1] if n else "")] == [
        *("message_start", *block, *block, *block),  # a thought, a text, a call
        *("message_delta", "message_stop"),
    ]


async def test_thinking_is_told_where_it_is_asked_for(url: str, sdk: anthropic.Anthropic) -> None:
    asked = say("[think hm hm] Yes.", output_config={"effort": "low"})
    for message in await messages(url, sdk, **asked, thinking={"type": "adaptive", "display": "summarized"}):
        first: Any = message.content[0]
        assert (first.type, first.thinking, bool(first.signature)) == ("thinking", "hm hm", True)
        assert blocks(message)[0].text == "Yes."
        assert message.usage.output_tokens_details is not None
        assert message.usage.output_tokens_details.thinking_tokens == 2
    for message in await messages(url, sdk, **asked, thinking={"type": "disabled"}):
        assert [block.type for block in message.content] == ["text"]


async def test_tools_are_called_behind_a_text_and_their_results_taken(url: str, sdk: anthropic.Anthropic) -> None:
    asked = say(f"Let me see. {PARIS}[call clock]", tools=[WEATHER, CLOCK])
    for message in await messages(url, sdk, **asked):
        text, weather, clock = blocks(message)
        assert (text.text, message.stop_reason) == ("Let me see.", "tool_use")
        assert (weather.name, weather.input) == ("weather", {"city": "Paris"})
        assert (clock.name, clock.input) == ("clock", {})
        results = [
            {"type": "tool_result", "tool_use_id": weather.id, "content": "Rain."},
            {"type": "tool_result", "tool_use_id": clock.id, "content": [{"type": "text", "text": "Noon."}]},
        ]
        said: Any = [*asked["messages"], message.to_param(), {"role": "user", "content": results}]
        last = sdk.messages.create(**{**asked, "messages": said})
        assert blocks(last)[0].text == "Rain.\nNoon."


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"type": "auto"}, []),
        ({"type": "any"}, ["weather"]),
        ({"type": "tool", "name": "clock"}, ["clock"]),
        ({"type": "none"}, []),
    ],
)
async def test_a_choice_says_what_has_to_be_called(
    url: str, sdk: anthropic.Anthropic, choice: Any, called: list[str]
) -> None:
    for message in await messages(url, sdk, **say("Hello.", tools=[WEATHER, CLOCK], tool_choice=choice)):
        assert [block.name for block in blocks(message) if block.type == "tool_use"] == called
        assert (message.stop_reason == "tool_use") == bool(called)


def test_several_calls_at_once_can_be_forbidden(sdk: anthropic.Anthropic) -> None:
    choice: Any = {"type": "auto", "disable_parallel_tool_use": True}
    message = sdk.messages.create(**say(f"{PARIS}[call clock]", tools=[WEATHER, CLOCK], tool_choice=choice))
    assert [block.name for block in blocks(message)] == ["weather"]


async def test_a_picture_is_seen(url: str, sdk: anthropic.Anthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG.data).decode()}
    turn = {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "[look] So?"}]}
    for message in await messages(url, sdk, **{**say(""), "messages": [turn]}):
        assert blocks(message)[0].text == f"So? 1 picture: image/png of {len(PNG.data)} bytes"


class Lamp(BaseModel):
    lit: bool
    colour: str


async def test_what_keeps_to_a_schema_is_parsed(url: str, sdk: anthropic.Anthropic) -> None:
    parsed = sdk.messages.parse(**say("Lamp?"), output_format=Lamp)
    assert parsed.parsed_output == Lamp(lit=False, colour="")
    async with asynchronous(url) as other:
        assert (await other.messages.parse(**say("Lamp?"), output_format=Lamp)).parsed_output == parsed.parsed_output


async def test_a_refusal_says_why(url: str, sdk: anthropic.Anthropic) -> None:
    for message in await messages(url, sdk, **say("No. [refuse]")):
        assert message.stop_reason == "refusal"
        assert message.stop_details is not None
        assert message.stop_details.category == "cyber"


ERRORS = {  # the SDK's names of them
    400: "BadRequestError",
    401: "AuthenticationError",
    402: "PaymentRequiredError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    413: "ContentTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    504: "GatewayTimeoutError",
    529: "OverloadedError",
}


@pytest.mark.parametrize("status", ERRORS)
async def test_each_error_is_one_of_the_sdks(url: str, sdk: anthropic.Anthropic, status: int) -> None:
    error = getattr(anthropic, ERRORS[status])
    with pytest.raises(error) as refused:
        sdk.messages.create(**say(f"[error {status}]"))
    async with asynchronous(url) as other:
        with pytest.raises(error):
            await other.messages.create(**say(f"[error {status}]"), stream=True)
    assert (refused.value.status_code, refused.value.request_id) == (status, "req_1")
    assert refused.value.body == {
        "type": "error",
        "error": {"type": STATUSES[status], "message": "as the prompt said"},
        "request_id": "req_1",
    }
    assert set(ERRORS) == set(STATUSES)


@pytest.mark.parametrize(
    ("text", "wanted", "meant"),
    [
        ("[busy 2] x", {}, "RateLimitError"),
        ("[away] x", {}, "OverloadedError"),
        ("[fail] x", {}, "InternalServerError"),
        ("word " * 51, {}, "BadRequestError"),
        ("x", {"model": "other"}, "NotFoundError"),
        ("x", {"extra_body": {"seed": 1}}, "BadRequestError"),
        ("x", {"extra_body": {"temperature": 1.0}}, "BadRequestError"),  # of the SDK's version of the API
        ("x", {"stop_sequences": ["\n"]}, "BadRequestError"),
        (" ", {}, "BadRequestError"),
        ("x", {"output_config": {"effort": "minimal"}}, "BadRequestError"),
        ("x", {"thinking": {"type": "enabled", "budget_tokens": 9}}, "BadRequestError"),
        ("x", {"tool_choice": {"type": "any"}}, "BadRequestError"),
        ("x", {"tools": [WEATHER, WEATHER]}, "BadRequestError"),
        ("x", {"tools": [{"name": "no name", "input_schema": CITY}]}, "BadRequestError"),
        ("x", {"tools": [{"name": "bare"}]}, "BadRequestError"),
        ("x", {"tools": [{**WEATHER, "strict": True}]}, "BadRequestError"),  # its object is open
        ("x", {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "BadRequestError"),
    ],
)
def test_what_the_api_refuses_is_refused(sdk: anthropic.Anthropic, text: str, wanted: Any, meant: str) -> None:
    with pytest.raises(getattr(anthropic, meant)) as refused:
        sdk.messages.create(**say(text, **wanted))
    assert refused.value.body["type"] == "error"
    if meant == "RateLimitError":
        assert refused.value.response.headers["retry-after"] == "2"


USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}
HELLO = {"type": "text", "text": "Hello."}


@pytest.mark.parametrize(
    ("turns", "tools"),
    [
        ([[HELLO], [USE]], [WEATHER]),  # no result
        ([[HELLO], [USE], [HELLO]], [WEATHER]),
        ([[HELLO], [USE], [HELLO, RESULT]], [WEATHER]),  # not first
        ([[HELLO], [USE], [{**RESULT, "tool_use_id": "toolu_2"}]], [WEATHER]),
        ([[HELLO], [HELLO], [RESULT]], [WEATHER]),  # nobody asked
        ([[USE]], [WEATHER]),  # not the user's to say
        ([[HELLO], [USE], [RESULT]], []),
        ([[HELLO], [{**USE, "id": "a.b"}], [{**RESULT, "tool_use_id": "a.b"}]], [WEATHER]),
    ],
)
def test_calls_and_results_have_to_fit(sdk: anthropic.Anthropic, turns: Any, tools: Any) -> None:
    said = [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)]
    with pytest.raises(anthropic.BadRequestError):
        sdk.messages.create(**{**say(""), "messages": said, "tools": tools})


async def test_an_error_in_mid_stream_is_an_error(url: str, sdk: anthropic.Anthropic) -> None:
    with failing() as late, sdk.messages.stream(**say("a b c [cut 2]")) as stream:
        assert "".join(stream.text_stream)
    assert late.value.body["error"]["type"] == "api_error"
    async with asynchronous(url) as other:
        with failing() as late:
            async with other.messages.stream(**say("a b c [cut 2]")) as streamed:
                await streamed.get_final_message()
    assert late.value.body["error"]["type"] == "api_error"


async def test_a_wrong_key_is_refused(url: str, sdk: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        sdk.with_options(api_key="wrong").messages.create(**say("x"))


# The engine, against the same.


@asynccontextmanager
async def engine(url: str) -> AsyncIterator[Engine]:
    model = Model("m", "anthropic", "echo", frozenset(("chat", "tools", "vision")), url=url, key_env="KEY")
    made = connect(model, Options(Path(), keys={"KEY": KEY}))
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def heard(url: str, *said: Message, **how: Any) -> list[Chunk]:
    """What the engine makes of it, whole and then streamed, where it is put together: the same."""
    ways = []
    model = Model("m", "anthropic", "echo", url=url)
    parameters = Parameters(**how.pop("wanted", {}))
    async with engine(url) as made:
        for is_streamed in (False, True):
            ask = Ask(model, parameters, said, streamed=is_streamed, **how)
            ways.append(together([chunk async for chunk in made.stream(ask)]))
    assert ways[0] == ways[1]
    return ways


def together(chunks: list[Chunk]) -> Chunk:
    calls: dict[int, Any] = {}
    for piece in (piece for chunk in chunks for piece in chunk.calls):
        known = calls.setdefault(piece.index, piece)
        if known is not piece:
            assert piece.id == piece.name == ""  # said once, and first
            known.arguments += piece.arguments
    for piece in calls.values():
        piece.arguments = json.dumps(json.loads(piece.arguments))
    (reason,) = (chunk.finish_reason for chunk in chunks if chunk.finish_reason)
    (usage,) = (chunk.usage for chunk in chunks if chunk.usage)
    text = "".join(chunk.text for chunk in chunks)
    thought = "".join(chunk.reasoning for chunk in chunks)
    return Chunk(text, reason, usage, calls=tuple(calls[index] for index in sorted(calls)), reasoning=thought)


OFFERED = (Tool("weather", "Tells the weather.", CITY, strict=True), Tool("clock"))


async def test_the_engine_calls_tools_and_gives_their_results(url: str) -> None:
    asked = Message("user", f"Let me see. {PARIS}[call clock]")
    chunk, _ = await heard(url, asked, tools=OFFERED)
    assert (chunk.text, chunk.finish_reason) == ("Let me see.", "tool_calls")
    assert [(call.name, call.arguments) for call in chunk.calls] == [("weather", '{"city": "Paris"}'), ("clock", "{}")]
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in chunk.calls)
    said = (
        asked,
        Message("assistant", chunk.text, calls=calls),
        *(Message("tool", f"{call.name} says so", call_id=call.id) for call in calls),
    )
    for tools in (OFFERED, ()):  # the calls stay known where nothing is offered any more
        last, _ = await heard(url, *said, tools=tools)
        assert (last.text, last.calls, last.finish_reason) == ("weather says so\nclock says so", (), "stop")
    last, _ = await heard(url, *said, Message("user", "And now?"), tools=OFFERED)
    assert last.text == "And now?"


@pytest.mark.parametrize(
    ("how", "called"),
    [
        ({}, ["weather", "clock"]),
        ({"parallel_calls": False}, ["weather"]),
        ({"tool_choice": NONE}, []),
        ({"tool_choice": REQUIRED, "parallel_calls": False}, ["weather"]),
        ({"tool": "clock"}, ["clock"]),
    ],
)
async def test_the_engine_has_the_choice_kept_to(url: str, how: dict[str, Any], called: list[str]) -> None:
    chunk, _ = await heard(url, Message("user", f"{PARIS}[call clock]"), tools=OFFERED, **how)
    assert [call.name for call in chunk.calls] == called


async def test_the_engine_tells_what_was_thought_and_counts_it(url: str) -> None:
    said = Message("user", "[think hm hm] Yes indeed.")
    chunk, _ = await heard(url, said, wanted={"reasoning_effort": "minimal"})
    assert (chunk.reasoning, chunk.text) == ("hm hm", "Yes indeed.")
    assert chunk.usage == Usage(5, 4, cached_tokens=2, reasoning_tokens=2)
    chunk, _ = await heard(url, said, wanted={"reasoning_effort": "none"})
    assert (chunk.reasoning, chunk.usage) == ("", Usage(5, 2, cached_tokens=2))
    chunk, _ = await heard(url, said)
    assert chunk.reasoning == ""


async def test_the_engine_shows_pictures_and_hears_a_refusal(url: str) -> None:
    chunk, _ = await heard(url, Message("user", "[look] [refuse]", (PNG,)))
    assert (chunk.text, chunk.finish_reason) == (
        f"[refuse] 1 picture: image/png of {len(PNG.data)} bytes",
        "content_filter",
    )


async def test_the_engine_gives_no_turn_that_the_api_refuses(url: str) -> None:
    said = (
        *(Message("user", "What is"), Message("user", "it?", (PNG,)), Message("system", "")),
        *(Message("assistant", "Say."), Message("assistant", "\n"), Message("user", "a b STOP c")),
    )
    wanted = {"stop": ("STOP",), "temperature": 2.0, "top_p": 0.5, "seed": 1}
    chunk, _ = await heard(url, *said, wanted=wanted)
    assert (chunk.text.strip(), chunk.usage) == ("a b", Usage(8, 2, cached_tokens=4))


async def failed(url: str, text: str, *, streamed: bool = True, **wanted: Any) -> LoquentError:
    async with engine(url) as made:
        ask = Ask(Model("m", "anthropic", "echo"), Parameters(**wanted), (Message("user", text),), streamed=streamed)
        with pytest.raises(LoquentError) as raised:
            [chunk async for chunk in made.stream(ask)]
    return raised.value


MEANINGS = {400: Invalid, 401: EngineFailed, 402: EngineFailed, 403: EngineFailed, 404: Invalid, 413: TooLarge}
LATER = {429: EngineBusy, 500: Unavailable, 504: Unavailable, 529: EngineBusy}


@pytest.mark.parametrize("status", STATUSES)
async def test_the_engine_knows_each_error(url: str, status: int) -> None:
    for is_streamed in (True, False):
        fault = await failed(url, f"[error {status}]", streamed=is_streamed)
        assert type(fault) is {**MEANINGS, **LATER}[status]
    assert isinstance(await failed(url, "a b c [cut 2]"), Unavailable)


async def test_the_engine_names_what_the_api_refuses(url: str) -> None:
    bounded = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": bounded}}
    for wanted, field in (
        ({"response_format": form}, "response_format"),
        ({"reasoning_effort": "high", "temperature": 0.0}, "temperature"),
    ):
        refused = await failed(url, "x", **wanted)
        assert isinstance(refused, Invalid)
        assert refused.field == field
