"""What the embedded model does beyond the contract of all engines; the first layers of a real model answer."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from loquent.domain.errors import ContextOverflow, EngineBusy, Invalid, ModelLoading, Unavailable
from loquent.domain.requests import Message
from loquent.engines import Options, connect
from loquent.engines.llama import LINE, Llama
from loquent.ports.engine import Chunk

from .engines import WEIGHTS
from .llamas import CONTEXT, all_free, asked, options, row, text

pytestmark = [pytest.mark.anyio, pytest.mark.model, pytest.mark.timeout(180), pytest.mark.xdist_group("llama")]

LONG = (Message("user", "Write a very long story about a lighthouse."),)


@pytest.fixture(scope="module")
async def engine(short: Path) -> AsyncIterator[Llama]:
    engine = Llama(row(), options(short.parent))
    await engine.open()
    yield engine
    await engine.close()


def schema(of: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "wanted", "schema": of}}


async def test_a_seed_gives_the_same_answer_alone_and_among_others(engine: Llama) -> None:
    ask = asked(LONG, seed=7, temperature=0.9, max_tokens=40)
    alone = await text(engine, ask)
    other = asked((Message("user", "List ten birds."),), seed=8, temperature=0.9, max_tokens=40)
    assert await asyncio.gather(*(text(engine, one) for one in (ask, other, ask))) == [
        alone,
        await text(engine, other),
        alone,
    ]
    assert await text(engine, asked(LONG, seed=9, temperature=0.9, max_tokens=40)) != alone


async def test_a_hang_up_in_mid_answer_frees_the_slot(engine: Llama) -> None:
    for _ in range(20):
        async with aclosing(engine.stream(asked(LONG, max_tokens=400))) as stream:
            await anext(stream)
    await all_free(engine)
    assert await text(engine, asked("One, two,", max_tokens=2))


async def test_a_hang_up_while_waiting_for_a_slot_leaves_the_line(engine: Llama) -> None:
    tasks = [asyncio.create_task(text(engine, asked(LONG, max_tokens=400))) for _ in range(8)]
    while engine.running() < 8:  # as above
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    await all_free(engine)


async def test_a_hang_up_while_the_prompt_is_read_frees_the_slot(tmp_path: Path, short: Path) -> None:
    long = Llama(row(), Options(models_dir=short.parent, slots=1, threads=1, context=8192))
    await long.open()
    try:
        await text(long, asked("One", max_tokens=1))
        task = asyncio.create_task(text(long, asked("a lighthouse by the sea and " * 1_000, max_tokens=1)))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(60):
            assert await text(long, asked("One, two,", max_tokens=2))
    finally:
        await long.close()


async def test_more_than_may_wait_are_sent_away_and_told_when_to_come_back(engine: Llama) -> None:
    streams = [engine.stream(asked(LONG, max_tokens=400)) for _ in range(LINE + 2)]
    firsts = [asyncio.ensure_future(anext(stream)) for stream in streams]
    while engine.running() < LINE + 2:  # as above
        await asyncio.sleep(0.01)
    with pytest.raises(EngineBusy) as busy:
        await text(engine, asked("One"))
    assert busy.value.retry_after is not None
    for first in firsts:
        first.cancel()
    await asyncio.gather(*firsts, return_exceptions=True)
    for stream in streams:
        await stream.aclose()
    await all_free(engine)


async def test_an_answer_stops_where_the_context_ends(engine: Llama) -> None:
    chunks = [chunk async for chunk in engine.stream(asked("word " * (CONTEXT - 20), max_tokens=400, temperature=0.0))]
    used = next(chunk.usage for chunk in chunks if chunk.usage)
    assert used.total_tokens <= CONTEXT
    assert next(chunk.finish_reason for chunk in chunks if chunk.finish_reason) == "length"


async def test_an_overflow_says_how_many_tokens_there_are_and_how_many_fit(engine: Llama) -> None:
    with pytest.raises(ContextOverflow, match=rf"is {CONTEXT * 2} tokens.*takes {CONTEXT},"):
        await text(engine, asked("Once" + " upon" * (CONTEXT * 2 - 1)))


@pytest.mark.parametrize("is_chat", [True, False])
async def test_json_follows_lists_choices_and_patterns(engine: Llama, is_chat: bool) -> None:
    wanted = {
        "$defs": {"tag": {"type": "string", "pattern": "^[a-z]{2,5}$"}},
        "type": "object",
        "title": "A bird",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "legs": {"type": "integer", "minimum": 1, "maximum": 4},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 1, "maxItems": 2},
            "size": {"oneOf": [{"const": "small"}, {"const": "large"}]},
        },
        "required": ["name", "legs", "tags", "size"],
        "additionalProperties": False,
    }
    said = "Describe a bird."
    ask = asked((Message("user", said),) if is_chat else said, max_tokens=120, response_format=schema(wanted))
    bird = json.loads(await text(engine, ask))
    assert set(bird) == {"name", "legs", "tags", "size"}
    assert 1 <= bird["legs"] <= 4
    assert all(tag.isalpha() and 2 <= len(tag) <= 5 for tag in bird["tags"])
    assert bird["size"] in ("small", "large")


@pytest.mark.parametrize("more", [{}, {"additionalProperties": False}])
async def test_an_object_that_names_its_properties_has_no_others(engine: Llama, more: dict[str, Any]) -> None:
    wanted = {"type": "object", "properties": {"name": {"enum": ["wren"]}}, "required": ["name"], **more}
    ask = asked((Message("user", "Describe a bird."),), max_tokens=120, response_format=schema(wanted))
    assert json.loads(await text(engine, ask)) == {"name": "wren"}


async def test_schemas_that_hold_together_do_not_shut_each_other_out(engine: Llama) -> None:
    halves = [{"type": "object", "properties": {key: {"const": key}}, "required": [key]} for key in ("a", "b")]
    ask = asked("Letters:", max_tokens=200, temperature=0.0, response_format=schema({"allOf": halves}))
    assert (await text(engine, ask)).startswith('{"a": "a", "b": "b"')


async def test_a_json_object_is_an_object(engine: Llama) -> None:
    ask = asked((Message("user", "Say hello."),), max_tokens=200, seed=3, response_format={"type": "json_object"})
    said = await text(engine, ask)
    assert said.startswith("{")
    if said.endswith("}"):
        assert isinstance(json.loads(said), dict)


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return inner


EVIL: dict[str, Any] = {
    "not a type": {"type": "nonsense"},
    "nested too deep": nested(5_000),
    "a hundred thousand values": {"enum": list(range(100_000))},
    "too many properties": {"type": "object", "properties": {str(n): {} for n in range(5_000)}},
    "a circle of references": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "a reference to itself": {"$ref": "#"},
    "a reference to a file": {"$ref": "file:///etc/passwd"},
    "a reference to nothing": {"$ref": "#/$defs/none"},
    "a pattern that is none": {"type": "string", "pattern": "^(((a$"},
    "a pattern that looks around": {"type": "string", "pattern": "^(?=a)b$"},
    "a length beyond all bounds": {"type": "string", "minLength": 10**9},
    "more least than most": {"type": "array", "minItems": 5, "maxItems": 2},
    "a keyword that is not followed": {"not": {"type": "string"}},
    "a format that is not known": {"type": "string", "format": "zip"},
    "an empty choice": {"enum": []},
    "a number that is none": {"const": float("nan")},
    "half a character": {"const": "\ud800"},
    "steps of nothing": {"type": "number", "multipleOf": 0},
    "what nothing can be": {"type": "integer", "minimum": 5, "exclusiveMaximum": 5},
    "no schema": None,
    "a list": [1],
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("is_chat", [True, False])
async def test_a_schema_that_cannot_be_kept_is_refused(engine: Llama, evil: Any, is_chat: bool) -> None:
    with pytest.raises(Invalid) as refused:
        await text(engine, asked(LONG if is_chat else "Say", response_format=schema(evil)))
    assert refused.value.field == "response_format"
    assert len(refused.value.message) < 400
    assert await text(engine, asked("One, two,", max_tokens=1))


@pytest.mark.parametrize(
    "heavy",
    [
        {"enum": [f"value{n}" for n in range(1_000)]},
        nested(20),
        {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
        {"type": "string", "pattern": "^(a+)+$"},
        {"type": "string", "pattern": "(" * 250 + "a" + ")" * 250},
        {"type": "string", "minLength": 4_000, "maxLength": 4_096},
        {"type": "array", "items": {"type": "integer"}, "minItems": 4_000},
        {
            "$defs": {
                **{
                    f"d{n}": {
                        "type": "object",
                        "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}, "b": {"$ref": f"#/$defs/d{n + 1}"}},
                        "required": ["a", "b"],
                    }
                    for n in range(60)
                },
                "d60": {"type": "string"},
            },
            "$ref": "#/$defs/d0",
        },
        {"allOf": [{"type": "object", "properties": {f"a{n}": {"type": "string"}}} for n in range(200)]},
        {
            "anyOf": [
                {"type": "object", "properties": {f"a{n}": {"const": n}}, "required": [f"a{n}"]} for n in range(300)
            ]
        },
    ],
)
async def test_a_heavy_schema_does_not_hold_up_the_others(engine: Llama, heavy: Any) -> None:
    async def json_start() -> str:
        try:
            return await text(engine, asked("Say", max_tokens=8, response_format=schema(heavy)))
        except Invalid:
            return "{"

    async with asyncio.timeout(60):
        start, other = await asyncio.gather(json_start(), text(engine, asked("One, two,", max_tokens=8)))
    assert start[0] in '{["-0123456789tfn'
    assert other


async def test_half_a_character_is_refused_before_native_code_sees_it(engine: Llama) -> None:
    with pytest.raises(Invalid):
        await text(engine, asked("\ud800"))


@pytest.mark.parametrize("odd", ["\0", "a\0b", "<|im_end|>", "🦜" * 20, "\r\n\t", "﷽", " "])
async def test_odd_text_is_taken(engine: Llama, odd: str) -> None:
    for said in (odd, (Message("user", odd),)):
        chunks = [chunk async for chunk in engine.stream(asked(said, max_tokens=3))]
        assert any(chunk.finish_reason for chunk in chunks)


async def test_a_cut_answer_holds_no_half_character(engine: Llama) -> None:
    for tokens in range(1, 6):
        ask = asked("🦜🦩🦜🦩🦜🦩🦜🦩", max_tokens=tokens, temperature=0.0)
        assert "\ufffd" not in await text(engine, ask)


async def test_a_base_model_is_shown_how_to_talk(engine: Llama) -> None:
    base = row(template="few-shot")
    said = (Message("system", "A friendly talk."), Message("user", "What colour is the sky?"))
    chunks = [chunk async for chunk in engine.stream(asked(said, base, max_tokens=60, temperature=0.0))]
    answer = "".join(chunk.text for chunk in chunks)
    assert answer == answer.strip()
    assert answer
    assert "User:" not in answer


async def test_a_second_engine_shares_the_process(engine: Llama, short: Path) -> None:
    second = Llama(row(name="second"), options(short.parent, slots=1))
    await second.open()
    try:
        assert all(await asyncio.gather(text(engine, asked("One, two,")), text(second, asked("One, two,"))))
    finally:
        await second.close()
    assert await text(engine, asked("One, two,"))


async def test_weights_that_are_not_there_say_how_to_get_them_and_are_found_once_they_are(
    tmp_path: Path, short: Path
) -> None:
    engine = Llama(row(), options(tmp_path))
    await engine.open()
    try:
        for call in (engine.ready(), text(engine, asked("One"))):
            with pytest.raises(Unavailable, match="loquent models pull small"):
                await call
        (tmp_path / WEIGHTS).symlink_to(short)
        assert await text(engine, asked("One, two,"))
    finally:
        await engine.close()


@pytest.mark.parametrize(
    "damaged",
    [b"", b"GGUF", b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60), b"not a model" * 100, 1_000_000, 20_000_000],
)
async def test_damaged_weights_are_said_so_and_do_no_harm(tmp_path: Path, damaged: bytes | int, short: Path) -> None:
    if isinstance(damaged, int):
        with short.open("rb") as whole:
            damaged = whole.read(damaged)
    (tmp_path / WEIGHTS).write_bytes(damaged)
    engine = Llama(row(), options(tmp_path))
    await engine.open()
    try:
        with pytest.raises(Unavailable, match=rf"{WEIGHTS}.*loquent models pull small"):
            await text(engine, asked("One"))
        with pytest.raises(Unavailable):
            await engine.ready()
        (tmp_path / WEIGHTS).unlink()
        (tmp_path / WEIGHTS).symlink_to(short)
        assert await text(engine, asked("One, two,"))  # healed without a restart
    finally:
        await engine.close()


async def test_the_event_loop_turns_while_the_model_is_loaded(short: Path) -> None:
    engine = Llama(row(), options(short.parent))
    await engine.open()
    with pytest.raises(ModelLoading) as loading:
        await engine.ready()
    assert loading.value.retry_after
    chunks: list[Chunk] = [chunk async for chunk in engine.stream(asked("One, two,"))]  # it waits for the load
    assert chunks
    await engine.ready()
    await engine.close()


async def test_closing_ends_what_is_running(short: Path) -> None:
    engine = Llama(row(), options(short.parent))
    await engine.open()
    tasks = [asyncio.create_task(text(engine, asked(LONG, max_tokens=400))) for _ in range(4)]
    while engine.running() < 4:  # as above
        await asyncio.sleep(0.01)
    await engine.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, Unavailable)
    with pytest.raises(Unavailable):
        await text(engine, asked("One"))


SCRIPT = """
import asyncio, signal, sys
from pathlib import Path
from loquent.domain.models import Model
from loquent.domain.requests import Parameters
from loquent.engines import Options, connect
from loquent.ports.engine import Ask

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    path = Path(sys.argv[1])
    model = Model("small", "llama", path.name)
    engine = connect(model, Options(path.parent, slots=1, threads=1, context=256))
    await engine.open()
    async for chunk in engine.stream(Ask(model, Parameters(max_tokens=200), prompt="One")):
        print("ready", flush=True)
        break
    signal.raise_signal(signal.SIGTERM)
    await stop.wait()
    if sys.argv[2] == "close":
        await engine.close()

asyncio.run(main())
print("left", flush=True)
"""


@pytest.mark.parametrize("how", ["close", "leave"])
async def test_a_process_ends_cleanly_keeps_its_signals_and_hears_nothing_from_llama(how: str, short: Path) -> None:
    path = Path(__file__).parents[2] / "src"
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", SCRIPT, str(short), how],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(path)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "ready\nleft\n"
    assert run.stderr == ""


async def test_a_template_that_is_not_known_stops_the_start(tmp_path: Path) -> None:
    from loquent.domain.errors import Misconfigured

    with pytest.raises(Misconfigured, match="few-shot"):
        connect(row(template="other"), options(tmp_path))
