"""The contract of every engine, by what it declares and never by its name."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from anthropic_server import anthropic_server
from generator_server import generator_server
from loquent.domain.errors import ContextOverflow, Invalid, ModelLoading
from loquent.domain.models import VISION, Model
from loquent.domain.requests import NONE, REQUIRED, Message, Parameters, Picture, Tool, ToolCall
from loquent.engines import Options, connect
from loquent.ports.engine import Ask, Chunk, Engine
from openai_server import openai_server
from samples import gpt2, pictures

from .engines import (
    BOUNDED,
    CHAT,
    CONTENDERS,
    CONTEXT,
    COUNTS,
    KEY,
    LOGPROBS,
    SAME,
    SCHEMA,
    SLOTS,
    TALE,
    TEXT,
    TOOLS,
    VECTORS,
    Contender,
    llama_server,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

MANY = 16 * SLOTS  # long answers: to say them all would take minutes
PICTURE = Picture("image/png", pictures.text(("A lighthouse",)))  # for engines that see
SOON = 60  # seconds: on a busy machine, and far less than that

Build = Callable[[Contender], tuple[Engine, Model]]


@pytest.fixture(scope="module", name="server")
def _server(short: Path) -> Iterator[str]:
    with llama_server(short) as url:
        yield url


@pytest.fixture(scope="module", name="gpt2")
def _gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2.make(tmp_path_factory.mktemp("gpt2") / "gpt2", [f"{TALE} {TALE}"], template=gpt2.TEMPLATE)


@pytest.fixture(scope="module", name="messages")
def _messages() -> Iterator[str]:
    with anthropic_server(KEY, context=CONTEXT) as url:
        yield url


@pytest.fixture(scope="module", name="completions")
def _completions() -> Iterator[str]:
    with openai_server(KEY, context=CONTEXT) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module", name="generator")
def _generator() -> Iterator[str]:
    with generator_server() as generator:
        yield generator.url


def grouped(one: Contender) -> tuple[pytest.MarkDecorator, ...]:
    """Its tests run in one process: what it needs is started once, and its model loaded once."""
    return (*one.marks, pytest.mark.xdist_group(one.name))


@pytest.fixture(params=[pytest.param(one, id=one.name, marks=grouped(one)) for one in CONTENDERS])
def contender(request: pytest.FixtureRequest) -> Contender:
    one: Contender = request.param
    return one


@pytest.fixture
def need(contender: Contender) -> Callable[[str], None]:
    """Skip what this engine declares that it does not do."""

    def needs(ability: str) -> None:
        if ability not in contender.does:
            pytest.skip(f"{contender.name} does not declare {ability}")

    return needs


@pytest.fixture(scope="module")
async def opened() -> AsyncIterator[dict[str, tuple[Engine, Model]]]:
    """The engines that are open already: a model is loaded once, not for each test."""
    engines: dict[str, tuple[Engine, Model]] = {}
    yield engines
    for engine, _ in engines.values():
        await engine.close()


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Build:
    """A new engine of that kind, not yet open."""

    def make(contender: Contender) -> tuple[Engine, Model]:
        started = request.getfixturevalue(contender.needs) if contender.needs else None
        url = started if isinstance(started, str) else None
        model = Model(name="a-name-of-ours", url=url, **contender.row)
        folder = started.parent if isinstance(started, Path) else Path("nowhere")
        options = Options(models_dir=folder, slots=SLOTS, threads=1, context=CONTEXT, keys={"KEY": KEY})
        return connect(model, options), model

    return make


@pytest.fixture
async def engine(
    contender: Contender,
    opened: dict[str, tuple[Engine, Model]],
    build: Build,
) -> Engine:
    if contender.name not in opened:
        opened[contender.name] = build(contender)
        await opened[contender.name][0].open()
        await until_ready(opened[contender.name][0])
    return opened[contender.name][0]


@pytest.fixture
def model(contender: Contender, engine: Engine, opened: dict[str, tuple[Engine, Model]]) -> Model:
    return opened[contender.name][1]


async def until_ready(engine: Engine) -> None:
    async with asyncio.timeout(60):
        loading = True
        while loading:
            try:
                await engine.ready()
                loading = False
            except ModelLoading:
                await asyncio.sleep(0.05)


def asking(
    engine: Engine,
    model: Model,
    said: str | tuple[Message, ...],
    *,
    streamed: bool = True,
    offered: Mapping[str, Any] = MappingProxyType({}),
    **wanted: Any,
) -> Any:
    parameters = Parameters(**{"temperature": 0.0, "seed": 1, "max_tokens": 24, **wanted})
    if isinstance(said, str) and TEXT in model.abilities:
        return engine.stream(Ask(model, parameters, prompt=said, streamed=streamed))
    if isinstance(said, str):
        said = chat(said)
    if VISION in model.abilities:
        said = tuple(Message(each.role, each.content, (PICTURE,)) for each in said)
    return engine.stream(Ask(model, parameters, said, streamed=streamed, **offered))


async def heard(engine: Engine, model: Model, said: str | tuple[Message, ...], **how: Any) -> list[Chunk]:
    parts = [part async for chunk in asking(engine, model, said, **how) for part in chunk.parts()]
    reasons = [n for n, part in enumerate(parts) if part.finish_reason is not None]
    assert len(reasons) == 1
    assert parts[reasons[0]].finish_reason in ("stop", "length", "tool_calls")
    assert (parts[reasons[0]].finish_reason == "tool_calls") <= any(part.calls for part in parts)
    assert not any(part.text or part.calls or part.reasoning for part in parts[reasons[0] + 1 :])
    used = [part.usage for part in parts if part.usage is not None]
    assert len(used) == 1
    assert used[0].prompt_tokens > 0
    assert used[0].total_tokens == used[0].prompt_tokens + used[0].completion_tokens
    return parts


async def warmed(engine: Engine, model: Model, said: str | tuple[Message, ...]) -> None:
    """Ask once before comparing: a prompt that is read and one that is recalled differ in the last bits of a float,
    so that the first answer of all may take another turn where two words are as likely."""
    await heard(engine, model, said, max_tokens=1)


def text_of(parts: list[Chunk]) -> str:
    return "".join(part.text for part in parts)


def reason_of(parts: list[Chunk]) -> str | None:
    return next(part.finish_reason for part in parts if part.finish_reason)


def tokens_of(parts: list[Chunk]) -> int:
    return next(part.usage.completion_tokens for part in parts if part.usage)


def chat(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def schema(of: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "wanted", "schema": of}}


async def test_a_prompt_is_gone_on_from(engine: Engine, model: Model, need: Callable[[str], None]) -> None:
    need(TEXT)
    parts = await heard(engine, model, TALE)
    assert text_of(parts).strip()
    assert tokens_of(parts) > 0


async def test_a_chat_is_answered(engine: Engine, model: Model, need: Callable[[str], None]) -> None:
    need(CHAT)
    said = (Message("system", "You are brief."), *chat("Hello."), Message("assistant", "Hello."), *chat(TALE))
    assert text_of(await heard(engine, model, said)).strip()


@pytest.mark.parametrize("is_chat", [True, False])
async def test_the_whole_answer_is_the_streamed_one(
    engine: Engine, model: Model, need: Callable[[str], None], is_chat: bool
) -> None:
    need(CHAT if is_chat else TEXT)
    need(SAME)
    said = chat(TALE) if is_chat else TALE
    await warmed(engine, model, said)
    streamed, whole = await heard(engine, model, said), await heard(engine, model, said, streamed=False)
    assert text_of(streamed) == text_of(whole)
    assert reason_of(streamed) == reason_of(whole)
    assert tokens_of(streamed) == tokens_of(whole)


async def test_a_wire_says_the_same_as_the_text(engine: Engine, model: Model) -> None:
    for said, field in ((chat(TALE), "chat"), (TALE, "completion")):
        chunks = [chunk async for chunk in asking(engine, model, said)]
        if not any(chunk.wire for chunk in chunks):
            return  # this engine reads no wire
        assert {chunk.dialect for chunk in chunks if chunk.wire} == {field}
        *blocks, rest = b"".join(chunk.wire for chunk in chunks).split(b"\n\n")
        assert rest == b""
        events = [json.loads(block.removeprefix(b"data: ")) for block in blocks]
        choices = [event["choices"][0] for event in events]
        pieces = [choice["delta"].get("content") if field == "chat" else choice["text"] for choice in choices]
        assert "".join(piece or "" for piece in pieces) == text_of(chunks)
        assert {event["model"] for event in events} == {model.name}
        assert not any(event.get("usage") for event in events)


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("most", [1, 5])
async def test_max_tokens_is_the_most_there_is(
    engine: Engine, model: Model, need: Callable[[str], None], most: int, is_streamed: bool
) -> None:
    need(COUNTS)
    parts = await heard(engine, model, TALE, max_tokens=most, streamed=is_streamed)
    assert tokens_of(parts) == most
    assert reason_of(parts) == "length"


async def test_a_stop_string_ends_the_answer_and_is_not_in_it(
    engine: Engine, model: Model, need: Callable[[str], None]
) -> None:
    need(SAME)
    await warmed(engine, model, TALE)
    free = text_of(await heard(engine, model, TALE, max_tokens=48))
    middle = len(free) // 2
    stop = free[middle : middle + 3]
    for streamed in (True, False):
        parts = await heard(engine, model, TALE, max_tokens=48, stop=("never said at all", stop), streamed=streamed)
        assert stop not in text_of(parts)
        assert text_of(parts) == free[: free.index(stop)]
        assert reason_of(parts) == "stop"


async def test_characters_come_whole(engine: Engine, model: Model, need: Callable[[str], None]) -> None:
    need(SCHEMA)
    bird = "🦜 naïve 漢字 ✓"
    wanted = schema({"type": "object", "properties": {"a": {"enum": [bird]}}, "required": ["a"]})
    parts = await heard(engine, model, chat("Answer in JSON."), max_tokens=256, response_format=wanted)
    for part in parts:
        assert "\ufffd" not in part.text
        part.text.encode("utf-8")
    assert json.loads(text_of(parts)) == {"a": bird}


async def test_an_answer_keeps_to_the_schema(engine: Engine, model: Model, need: Callable[[str], None]) -> None:
    need(SCHEMA)
    wanted = schema(
        {
            "type": "object",
            "properties": {"lit": {"type": "boolean"}, "colour": {"enum": ["red", "blue"]}},
            "required": ["lit", "colour"],
            "additionalProperties": False,
        }
    )
    for streamed in (True, False):
        parts = await heard(engine, model, chat(TALE), max_tokens=64, response_format=wanted, streamed=streamed)
        answer = json.loads(text_of(parts))
        assert set(answer) == {"lit", "colour"}
        assert isinstance(answer["lit"], bool)
        assert answer["colour"] in ("red", "blue")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_schema_that_makes_no_sense_is_invalid(
    engine: Engine, model: Model, need: Callable[[str], None], streamed: bool
) -> None:
    need(SCHEMA)
    wanted = schema({"type": "no such type"})
    with pytest.raises(Invalid):
        await heard(engine, model, chat("Hello."), response_format=wanted, streamed=streamed)


@pytest.mark.parametrize("is_chat", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
async def test_what_does_not_fit_the_context_is_said_so(
    engine: Engine, model: Model, need: Callable[[str], None], is_chat: bool, streamed: bool
) -> None:
    need(BOUNDED)
    much = "lighthouse " * (CONTEXT * 2)
    with pytest.raises(ContextOverflow) as refused:
        await heard(engine, model, chat(much) if is_chat else much, streamed=streamed)
    assert "lighthouse lighthouse" not in refused.value.message


WEATHER = Tool(
    "get_weather",
    "Tells the weather of a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Paris", "Rome"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)
CLOCK = Tool("clock", "Tells the time.", {"type": "object", "properties": {}, "additionalProperties": False})
BOTH = (WEATHER, CLOCK)
ASKED = chat("What will the weather be in Paris on the next three days?")


def calls_of(parts: list[Chunk]) -> list[ToolCall]:
    """The calls, put together as a listener does."""
    calls: dict[int, ToolCall] = {}
    for piece in (piece for part in parts for piece in part.calls):
        known = calls.get(piece.index)
        if known is None:
            assert piece.id
            assert piece.name
            calls[piece.index] = ToolCall(piece.id, piece.name, piece.arguments)
        else:
            calls[piece.index] = ToolCall(known.id, known.name, known.arguments + piece.arguments)
    assert sorted(calls) == list(range(len(calls)))
    return list(calls.values())


@pytest.mark.parametrize("named", [True, False])
async def test_a_tool_that_has_to_be_called_is_called_with_arguments_that_fit(
    engine: Engine, model: Model, need: Callable[[str], None], named: bool
) -> None:
    need(TOOLS)
    offered = {"tools": BOTH, "tool": "get_weather"} if named else {"tools": (WEATHER,), "tool_choice": REQUIRED}
    made = []
    for streamed in (True, False):
        parts = await heard(engine, model, ASKED, max_tokens=200, offered=offered, streamed=streamed)
        assert reason_of(parts) in ("tool_calls", "stop")  # of one that was named, some say stop
        calls = calls_of(parts)
        assert calls
        made.append([(call.name, json.loads(call.arguments)) for call in calls])
    for name, arguments in made[0]:
        assert name == "get_weather"
        assert set(arguments) == {"city", "days"}
        assert arguments["city"] in ("Paris", "Rome")
        assert type(arguments["days"]) is int
    assert made[0] == made[1]


async def test_what_a_tool_gave_back_is_taken_and_answered(
    engine: Engine, model: Model, need: Callable[[str], None]
) -> None:
    need(TOOLS)
    parts = await heard(
        engine, model, ASKED, max_tokens=200, offered={"tools": BOTH, "tool": "get_weather", "parallel_calls": False}
    )
    (call,) = calls_of(parts)
    said = (*ASKED, Message("assistant", "", calls=(call,)), Message("tool", "Rain, every day.", call_id=call.id))
    for streamed in (True, False):
        answered = await heard(engine, model, said, offered={"tools": BOTH, "tool_choice": NONE}, streamed=streamed)
        assert text_of(answered).strip()
        assert not calls_of(answered)


async def test_no_tool_is_called_where_none_may_be(engine: Engine, model: Model, need: Callable[[str], None]) -> None:
    need(TOOLS)
    for streamed in (True, False):
        parts = await heard(engine, model, ASKED, offered={"tools": BOTH, "tool_choice": NONE}, streamed=streamed)
        assert text_of(parts).strip()
        assert not calls_of(parts)


async def test_each_token_says_how_likely_it_was(
    engine: Engine, model: Model, need: Callable[[str], None], contender: Contender
) -> None:
    need(LOGPROBS)
    for said in (chat(TALE), TALE) if TEXT in contender.does else (chat(TALE),):
        for streamed in (True, False):
            parts = await heard(engine, model, said, logprobs=3, max_tokens=8, streamed=streamed)
            tokens = [token for part in parts for token in part.logprobs]
            assert "".join(token["token"] for token in tokens) == text_of(parts)
            assert len(tokens) == tokens_of(parts)
            for token in tokens:
                assert token["logprob"] <= 0
                others = [other["logprob"] for other in token["top_logprobs"]]
                assert len(others) == 3
                assert others == sorted(others, reverse=True)
            assert not any(part.logprobs for part in await heard(engine, model, said, max_tokens=2))


async def vectors_of(engine: Engine, model: Model, *texts: str) -> list[Sequence[float]]:
    chunks = [chunk async for chunk in engine.stream(Ask(model, Parameters(), texts=texts))]
    used = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert len(used) == 1
    assert used[0].prompt_tokens >= len(texts)
    assert used[0].completion_tokens == 0
    assert not any(chunk.text or chunk.calls for chunk in chunks)
    vectors = [vector for chunk in chunks for vector in chunk.vectors]
    assert len(vectors) == len(texts)
    assert len({len(vector) for vector in vectors}) == 1
    assert all(math.isfinite(number) for vector in vectors for number in vector)
    return vectors


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of the angle between them."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


async def test_vectors_come_one_a_text_in_order_and_equal_for_equal_texts(
    engine: Engine, model: Model, need: Callable[[str], None]
) -> None:
    need(VECTORS)
    texts = (TALE, "The lamp is lit.", TALE, "Nothing of the kind was ever said.", "x")
    together = await vectors_of(engine, model, *texts)
    assert likeness(together[0], together[2]) > 0.999
    for number, text in enumerate(texts):  # in a batch of other size floats differ in their last bits
        (alone,) = await vectors_of(engine, model, text)
        assert likeness(alone, together[number]) > 0.99
        others = [vector for other, vector in zip(texts, together, strict=True) if other != text]
        assert all(likeness(alone, together[number]) > likeness(alone, other) for other in others)


async def test_a_text_that_is_too_long_for_a_vector_is_said_so(
    engine: Engine, model: Model, need: Callable[[str], None]
) -> None:
    need(VECTORS)
    need(BOUNDED)
    with pytest.raises(Invalid) as refused:
        await vectors_of(engine, model, "short", "lighthouse " * (CONTEXT * 2))
    assert isinstance(refused.value, ContextOverflow)
    assert (await vectors_of(engine, model, "short"))[0]


async def test_as_many_as_come_at_once_are_answered_as_if_alone(
    engine: Engine, model: Model, need: Callable[[str], None]
) -> None:
    need(CHAT)
    said = [chat(f"{TALE} What is said of the {thing}?") for thing in ("lamp", "storm", "village", "glass", "fog")]
    answers = await asyncio.gather(*(heard(engine, model, one, max_tokens=8) for one in said))
    assert all(text_of(parts).strip() for parts in answers)


async def test_closing_a_stream_frees_what_it_held(engine: Engine, model: Model, contender: Contender) -> None:
    for _ in range(MANY):
        async with aclosing(asking(engine, model, contender.long, max_tokens=900)) as stream:
            await anext(stream)
    async with asyncio.timeout(SOON):
        assert text_of(await heard(engine, model, TALE, max_tokens=4))


@pytest.mark.parametrize("streamed", [True, False])
async def test_cancelling_a_call_frees_what_it_held(
    engine: Engine, model: Model, contender: Contender, streamed: bool
) -> None:
    async def call() -> None:
        async for _ in asking(engine, model, contender.long, max_tokens=900, streamed=streamed):
            pass

    tasks = [asyncio.create_task(call()) for _ in range(MANY)]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    async with asyncio.timeout(SOON):
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(SOON):
        assert text_of(await heard(engine, model, TALE, max_tokens=4))


async def test_an_engine_may_be_closed_twice_and_without_being_opened(contender: Contender, build: Build) -> None:
    unopened, _ = build(contender)
    await unopened.close()
    engine, model = build(contender)
    await engine.open()
    await until_ready(engine)
    assert text_of(await heard(engine, model, TALE, max_tokens=4))
    await engine.close()
    await engine.close()
