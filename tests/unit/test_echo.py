"""The echo engine does what the prompt orders, and otherwise behaves as any engine does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
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
    Unavailable,
)
from loquent.domain.models import Model, Timeouts
from loquent.domain.requests import NONE, REQUIRED, Message, Parameters, Picture, Tool, ToolCall
from loquent.domain.usage import Usage
from loquent.engines import ENGINES, EXTRAS, Options, connect
from loquent.ports.engine import Ask, CallPiece, Chunk

pytestmark = pytest.mark.anyio

OPTIONS = Options(models_dir=Path("nowhere"))


def row(**more: Any) -> Model:
    return Model("echo", "echo", "echo", **more)


async def told(prompt: str, *, streamed: bool = True, model: Model | None = None, **wanted: Any) -> list[Chunk]:
    model = model or row()
    ask = Ask(model, Parameters(**wanted), prompt=prompt, streamed=streamed)
    return [chunk async for chunk in connect(model, OPTIONS).stream(ask)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_the_prompt_comes_back_word_by_word_with_its_own_spaces() -> None:
    chunks = await told("  One,  two\nthree. ")
    assert [chunk.text for chunk in chunks] == ["One,", "  two", "\nthree.", ""]
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage == Usage(3, 3)


async def test_a_chat_is_answered_with_the_last_user_message_and_counts_all_of_it() -> None:
    said = (Message("system", "be brief"), Message("user", "one two"), Message("assistant", "x"), Message("user", "hi"))
    chunks = [c async for c in connect(row(), OPTIONS).stream(Ask(row(), Parameters(), messages=said))]
    assert text_of(chunks) == "hi"
    assert chunks[-1].usage == Usage(6, 1)


async def test_unstreamed_it_is_one_chunk() -> None:
    (chunk,) = await told("one two", streamed=False)
    assert (chunk.text, chunk.finish_reason, chunk.usage) == ("one two", "stop", Usage(2, 2))


@pytest.mark.parametrize(
    ("order", "error", "wait"),
    [("[fail]", EngineFailed, None), ("[busy 2]", EngineBusy, 2.0), ("[away]", Unavailable, None)],
)
async def test_it_refuses_when_it_is_told_to(order: str, error: type[LoquentError], wait: float | None) -> None:
    with pytest.raises(error) as refused:
        await told(f"my secret {order} words")
    assert getattr(refused.value, "retry_after", None) == wait
    assert "secret" not in refused.value.message


async def test_a_cut_comes_after_as_many_words() -> None:
    heard = []
    with pytest.raises(EngineFailed):
        async for chunk in connect(row(), OPTIONS).stream(Ask(row(), Parameters(), prompt="a b c d [cut 2]")):
            heard.append(chunk.text)  # noqa: PERF401 - what came before the error is the point
    assert heard == ["a", " b"]


async def test_it_says_as_many_words_as_it_is_told_to() -> None:
    assert text_of(await told("a b [words 5]")) == "a b a b a"
    assert text_of(await told("[words 2]")) == "echo echo"


async def test_slow_words_can_be_cancelled_between_them() -> None:
    stream = connect(row(), OPTIONS).stream(Ask(row(), Parameters(), prompt="[slow 0.01] a b [words 1000]"))
    task = asyncio.ensure_future(anext(stream))
    assert (await task).text == "a"
    late = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late


@pytest.mark.parametrize("order", ["[hang]", "[slow 30]"])
async def test_never_answering_is_a_timeout_by_the_rows_own_limit(order: str) -> None:
    with pytest.raises(EngineTimeout):
        await told(f"hello {order}", model=row(timeouts=Timeouts(0.02)))


async def test_max_tokens_counts_words() -> None:
    chunks = await told("a b c", max_tokens=2)
    assert text_of(chunks) == "a b"
    assert (chunks[-1].finish_reason, chunks[-1].usage) == ("length", Usage(3, 2))
    assert (await told("a b", max_tokens=2))[-1].finish_reason == "stop"


async def test_the_answer_ends_before_the_first_stop_string_even_across_words() -> None:
    chunks = await told("one two three four", stop=("e f", "o thr"))
    assert text_of(chunks) == "one tw"
    assert chunks[-1].finish_reason == "stop"


async def test_a_prompt_over_the_rows_context_does_not_fit() -> None:
    with pytest.raises(ContextOverflow):
        await told("a b c", model=row(context=2))


async def test_json_is_said_when_it_is_asked_for() -> None:
    assert json.loads(text_of(await told('say "hi" [json]'))) == {"echo": 'say "hi"'}
    assert text_of(await told("hello", response_format={"type": "json_object"})) == "{}"
    assert text_of(await told("hello", response_format={"type": "text"})) == "hello"


@pytest.mark.parametrize(
    ("schema", "smallest"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}, {"a": ""}),
        ({"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2}, [3, 3]),
        ({"enum": ["red", "blue"]}, "red"),
        ({"const": 7}, 7),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
        ({"type": ["null", "string"]}, None),
        ({"type": "string", "minLength": 2}, "xx"),
        ({}, {}),
    ],
)
async def test_a_schema_is_answered_with_its_smallest_instance(schema: Mapping[str, Any], smallest: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert json.loads(text_of(await told("x", response_format=wanted))) == smallest


async def test_a_schema_cannot_make_a_flood() -> None:
    schema: dict[str, Any] = {"const": "x" * 1000}
    for _ in range(20):
        schema = {"type": "array", "items": schema, "minItems": 10**9}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert len(text_of(await told("x", response_format=wanted))) < 20_000


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: (
        some.lists(inner)
        | some.dictionaries(
            some.sampled_from(["type", "enum", "const", "properties", "required", "items", "minItems", "minLength"])
            | some.text(),
            inner,
        )
    ),
)


@given(JSON)
def test_any_schema_is_answered_with_json_or_refused_as_invalid(schema: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    try:
        json.loads(text_of(asyncio.run(told("x", response_format=wanted))))
    except Invalid as refused:
        assert refused.field == "response_format"


WEATHER = Tool("get_weather", "of a city", {"type": "object", "properties": {"city": {}}, "required": ["city"]})
CLOCK = Tool("clock")
PARIS = '[call get_weather {"city": "Pa[r]is"}]'


async def chatted(*messages: Message, streamed: bool = True, wanted: Parameters | None = None, **more: Any) -> Any:
    """The answer to a chat in which two tools are offered: its text, its calls, why it ended and all its chunks."""
    ask = Ask(row(), wanted or Parameters(), messages, streamed=streamed, tools=(WEATHER, CLOCK), **more)
    chunks = [chunk async for chunk in connect(row(), OPTIONS).stream(ask)]
    return text_of(chunks), calls_of(chunks), chunks[-1].finish_reason, chunks


def calls_of(chunks: list[Chunk]) -> list[ToolCall]:
    made: dict[int, list[CallPiece]] = {}
    for chunk in chunks:
        for piece in chunk.calls:
            made.setdefault(piece.index, []).append(piece)
    return [ToolCall(all[0].id, all[0].name, "".join(piece.arguments for piece in all)) for all in made.values()]


async def test_a_tool_is_called_as_the_prompt_orders_bit_by_bit() -> None:
    said = Message("user", f"What is it like there? {PARIS}")
    text, calls, reason, chunks = await chatted(said)
    assert (text, calls, reason) == ("", [ToolCall("call_1", "get_weather", '{"city": "Pa[r]is"}')], "tool_calls")
    assert len(chunks) > 4
    assert chunks[-1].usage == Usage(9, len(chunks) - 1)
    assert (await chatted(said, streamed=False))[:3] == (text, calls, reason)


async def test_several_orders_are_several_calls_where_that_is_allowed() -> None:
    said = Message("user", f"{PARIS} [call clock] [call clock {{half}}]")
    calls = (await chatted(said))[1]
    assert [(call.name, call.arguments) for call in calls[1:]] == [("clock", "{}"), ("clock", "{half}")]
    assert len((await chatted(said, parallel_calls=False))[1]) == 1
    assert [call.name for call in (await chatted(said, tool="clock"))[1]] == ["clock", "clock"]


async def test_a_call_that_is_required_is_made_from_the_schema() -> None:
    hello = Message("user", "hello")
    assert (await chatted(hello, tool_choice=REQUIRED))[1] == [ToolCall("call_1", "get_weather", '{"city": {}}')]
    assert (await chatted(hello, tool="clock"))[1] == [ToolCall("call_1", "clock", "{}")]
    assert (await chatted(hello))[0] == "hello"
    assert (await chatted(Message("user", f"hello {PARIS}"), tool_choice=NONE))[:2] == ("hello", [])
    with pytest.raises(Invalid):
        await chatted(hello, tool="nothing of the kind")


async def test_what_a_tool_gave_back_is_answered_with_its_words_and_never_with_the_same_call() -> None:
    asked = Message("user", PARIS), Message("assistant", "", calls=(ToolCall("call_1", "get_weather", "{}"),))
    text, calls, reason, _ = await chatted(*asked, Message("tool", f"rain {PARIS}", call_id="call_1"))
    assert (text, calls, reason) == (f"rain {PARIS}", [], "stop")
    (later,) = (await chatted(*asked, Message("tool", "rain", call_id="call_1"), Message("user", "[call clock]")))[1]
    assert later.id == "call_2"


async def test_an_order_to_call_is_only_text_where_no_tool_is_offered() -> None:
    assert text_of(await told(f"say {PARIS}")) == f"say {PARIS}"


async def test_arguments_end_at_max_tokens_as_words_do() -> None:
    _, (call,), reason, chunks = await chatted(Message("user", PARIS), wanted=Parameters(max_tokens=3))
    assert (reason, chunks[-1].usage.completion_tokens) == ("length", 3)
    assert call.arguments == '{"city'


async def test_it_thinks_before_it_speaks_where_it_is_told_to() -> None:
    chunks = await told("hello [think it is a greeting] there")
    assert [chunk.reasoning for chunk in chunks[:4]] == ["it", " is", " a", " greeting"]
    assert text_of(chunks) == "hello there"
    assert chunks[-1].usage == Usage(7, 6, reasoning_tokens=4)
    assert [chunk.reasoning for chunk in await told("hi [think so]", streamed=False)] == ["so"]
    assert not any(chunk.reasoning for chunk in await told("hi [think so]", reasoning_effort="none"))
    assert (await told("hi [think it over]", max_tokens=1))[-1].finish_reason == "length"


async def test_each_word_says_how_likely_it_was() -> None:
    chunks = await told("one two", logprobs=2)
    (one,), (two,) = chunks[0].logprobs, chunks[1].logprobs
    assert (one["token"], two["token"], two["bytes"]) == ("one", " two", list(b" two"))
    assert [other["token"] for other in two["top_logprobs"]] == [" two", " 2"]
    assert 0 > one["logprob"] > one["top_logprobs"][1]["logprob"]
    (whole,) = await told("one two", logprobs=2, streamed=False)
    assert whole.logprobs == (one, two)
    assert (await told("one", logprobs=0))[0].logprobs[0]["top_logprobs"] == []
    assert not any(chunk.logprobs for chunk in await told("one"))


async def test_pictures_are_told_of_where_that_is_ordered_or_nothing_else_is_said() -> None:
    two = Picture("image/png", b"12"), Picture("image/jpeg", b"123")
    for said, answer in (
        ("What? [look]", "What? 2 pictures: image/png of 2 bytes, image/jpeg of 3 bytes"),
        ("", "2 pictures: image/png of 2 bytes, image/jpeg of 3 bytes"),
        ("What?", "What?"),
    ):
        assert (await chatted(Message("user", said, two)))[0] == answer


async def embedded(*texts: str, **more: Any) -> Chunk:
    (chunk,) = [chunk async for chunk in connect(row(), OPTIONS).stream(Ask(row(), Parameters(), texts=texts, **more))]
    return chunk


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_texts_become_unit_vectors_that_lie_near_each_other_where_they_share_words() -> None:
    chunk = await embedded("the lamp is lit", "the lamp is out", "unrelated altogether", "the lamp is lit", "")
    assert chunk.usage == Usage(14, 0)
    first, near, far, again, empty = chunk.vectors
    assert first == again
    assert {len(each) for each in chunk.vectors} == {64}
    assert all(likeness(each, each) == pytest.approx(1) for each in (first, near, far, empty))
    assert likeness(first, near) > likeness(first, far) + 0.3
    assert {len(each) for each in (await embedded("a", "b", dimensions=7)).vectors} == {7}


async def test_making_vectors_fails_as_it_is_told_to() -> None:
    with pytest.raises(Unavailable):
        await embedded("fine", "[away]")
    for bad in (0, 100_000):
        with pytest.raises(Invalid):
            await embedded("a", dimensions=bad)
    with pytest.raises(ContextOverflow):
        await anext(connect(row(context=2), OPTIONS).stream(Ask(row(), Parameters(), texts=("a", "a b c"))))


async def test_a_long_run_of_spaces_or_brackets_costs_no_more_than_its_length() -> None:
    """Each of these took minutes where a pattern looked at a run again from each of its places."""
    for much in ("a" + " " * 1_000_000 + "b", "[think " * 100_000, "x" + "\n" * 1_000_000 + "stop"):
        await told(much, stop=("stop",), max_tokens=9)
        await chatted(Message("user", much + "[call clock " * 50_000), wanted=Parameters(max_tokens=9))


async def test_the_table_of_engines_builds_them_and_names_what_is_wrong() -> None:
    assert set(EXTRAS) <= set(ENGINES)
    with pytest.raises(Misconfigured, match="engine 'parrot' is not one of llama, openai"):
        connect(Model("m", "parrot", "x"), OPTIONS)


@pytest.mark.parametrize(
    ("engine", "extra", "package"), [("llama", "llama", "xllamacpp"), ("transformers", "transformers", "torch")]
)
async def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, extra: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it was not installed
    for name in [name for name in sys.modules if name.startswith(f"loquent.engines.{engine}")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Misconfigured, match=rf'pip install "loquent\[{extra}\]"'):
        await connect(Model("m", engine, "x.gguf"), Options(tmp_path)).open()
    assert EXTRAS[engine] == extra


def test_options_do_not_print_their_keys() -> None:
    assert "hush" not in repr(Options(Path(), keys={"KEY": "hush"}))
