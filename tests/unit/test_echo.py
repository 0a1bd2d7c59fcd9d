"""The echo engine does what the prompt orders, and otherwise behaves as any engine does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
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
from loquent.domain.requests import Message, Parameters
from loquent.domain.usage import Usage
from loquent.engines import ENGINES, EXTRAS, Options, connect
from loquent.ports.engine import Ask, Chunk

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
