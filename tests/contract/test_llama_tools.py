"""Tools, logprobs and thoughts of the embedded engine.

A real model is held to a form; a small one that says what it is made to say shows what llama.cpp finds in the answers
of models that were taught to call, or think aloud.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from loquent.domain.errors import EngineFailed, Invalid
from loquent.domain.evolve import evolve
from loquent.domain.requests import Message, Tool, ToolCall
from loquent.engines.llama import Llama
from loquent.engines.llama_ask import request
from loquent.ports.engine import Ask, Chunk
from samples import gguf

from .engines import weights
from .llamas import asked, chunks, opened, options, row, text

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), pytest.mark.xdist_group("llama")]

ROW = row(abilities=frozenset(("chat", "text", "tools", "logprobs")))
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
MAIL = {"type": "object", "properties": {"to": {"type": "string", "maxLength": 20}}, "required": ["to"]}
TOOLS = (Tool("get_weather", "Weather of a city", CITY), Tool("send_mail", "Send a mail", MAIL), Tool("stop"))
QUESTION = "What is the weather in Paris?"
CALLED = (
    Message("user", QUESTION),
    Message("assistant", "", calls=(ToolCall("c1", "get_weather", '{"city": "Paris"}'),)),
)

TAUGHT = """{%- if tools %}<|im_start|>system
You may call functions.
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
For each call, return:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}{% for message in messages %}
{%- if message.role == "assistant" and message.tool_calls %}<|im_start|>assistant
{{ message.content or "" }}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% elif message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""A chat template as models have it that were taught to call functions (the form of Hermes and Qwen)."""
THINKS = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{- message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""And one of a model that thinks aloud."""
CALL = ("<tool_", "call>\n", '{"name": "get_weather", ', '"arguments": {"city": "Par', 'is"}}', "\n</tool_call>")
HELD = ('{"name": "get_weather", "arguments": {"city": "', 'Paris"', "}}")
"""The same in tokens that a grammar lets pass: it is asked at each of them whether what comes may go on so."""


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[Llama]:
    async with opened(options(weights().parent), ROW) as (engine,):
        yield engine


def asking(said: str = QUESTION, model: Any = ROW, **more: Any) -> Ask:
    wanted = {name: more.pop(name) for name in ("max_tokens", "temperature", "logprobs", "stop") if name in more}
    ask = asked((Message("user", said),), model, **{"max_tokens": 60, "temperature": 0.0, **wanted})
    return evolve(ask, **{"tools": TOOLS, **more})


def calls(made: list[Chunk]) -> list[tuple[str, Any]]:
    """The calls that an answer holds, put together as a caller would."""
    names: dict[int, str] = {}
    written: dict[int, str] = {}
    for piece in (piece for chunk in made for piece in chunk.calls):
        if piece.index not in names:
            assert piece.id
            names[piece.index] = piece.name
        written[piece.index] = written.get(piece.index, "") + piece.arguments
    return [(name, json.loads(written[index])) for index, name in names.items()]


def reason(made: list[Chunk]) -> list[str]:
    return [chunk.finish_reason for chunk in made if chunk.finish_reason]


@pytest.mark.model
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_call_that_must_be_is_made_with_arguments_that_fit(engine: Llama, *, streamed: bool) -> None:
    made = await chunks(engine, asking(tool_choice="required", streamed=streamed))
    assert calls(made) == [("get_weather", {"city": "Paris"})]
    assert reason(made) == ["tool_calls"]
    assert not "".join(chunk.text for chunk in made)


@pytest.mark.model
@pytest.mark.parametrize("name", ["get_weather", "send_mail", "stop"])
async def test_the_named_tool_is_called_whatever_was_said(engine: Llama, name: str) -> None:
    made = await chunks(engine, asking("Tell me a joke.", tool=name))
    assert [called for called, _ in calls(made)] == [name]


@pytest.mark.model
async def test_a_model_may_answer_in_words_where_it_need_not_call(engine: Llama) -> None:
    for choice in ("auto", "none"):
        made = await chunks(engine, asking("Hi, how are you?", tool_choice=choice, max_tokens=12))
        assert not calls(made)
        assert "".join(chunk.text for chunk in made)


@pytest.mark.model
async def test_an_answer_that_ends_inside_a_call_has_none(engine: Llama) -> None:
    made = await chunks(engine, asking(tool_choice="required", max_tokens=8))
    assert not calls(made)
    assert reason(made) == ["length"]
    with pytest.raises(EngineFailed, match="inside a call"):
        await chunks(engine, asking(tool_choice="required", stop=("Paris",)))


@pytest.mark.model
async def test_the_result_of_a_call_is_read(engine: Llama) -> None:
    answers = set()
    for result in ("Snow, -4 degrees", "Sunny, 31 degrees"):
        told = (*CALLED, Message("tool", result, call_id="c1"))
        answers.add(await text(engine, asked(told, ROW, max_tokens=24, temperature=0.0)))
    assert len(answers) == 2


@pytest.mark.model
async def test_what_cannot_be_held_is_refused(engine: Llama) -> None:
    odd = Tool("odd", "", {"type": "object", "properties": {"a": {"not": {}}}})
    prompt = evolve(asked("One", ROW), tools=TOOLS)
    for ask, field in (
        (asking(tools=(odd,), tool_choice="required"), "tools"),
        (asking(tool="no such"), "tool_choice"),
        (prompt, "tools"),
    ):
        with pytest.raises(Invalid) as refused:
            await chunks(engine, ask)
        assert refused.value.field == field


FORM = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}


def in_form(ask: Ask) -> Ask:
    """The same, whose answer is to keep to FORM."""
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM}}
    return evolve(ask, parameters=evolve(ask.parameters, response_format=form))


@pytest.mark.model
async def test_a_form_is_for_the_answer_and_not_for_calls(engine: Llama) -> None:
    made = await chunks(engine, in_form(asking(tool_choice="required")))
    assert calls(made) == [("get_weather", {"city": "Paris"})]
    for choice in ("none", "auto"):
        made = await chunks(engine, in_form(asking("Name a city, in JSON.", tool_choice=choice, max_tokens=40)))
        assert calls(made) or json.loads("".join(chunk.text for chunk in made))["city"] in ("Paris", "Rome")


ALONE = """
import asyncio, json, sys
from pathlib import Path
from contract.test_llama_tools import asking, calls, chunks, in_form, opened, options, reason, row

async def main():
    folder, form, streamed = sys.argv[1:]
    said = row(id="said.gguf")
    ask = asking(model=said, streamed=bool(streamed))
    async with opened(options(Path(folder), context=4096), said) as (engine,):
        made = await chunks(engine, in_form(ask) if form else ask)
    print(json.dumps([calls(made), "".join(chunk.text for chunk in made), reason(made)]))

asyncio.run(main())
"""
"""In a process of its own: llama.cpp keeps the words that a grammar knows by where a model lay in memory, so that it
takes a model for another one that lay there before."""


async def alone(folder: Path, says: Sequence[str], *, form: bool, streamed: bool = True) -> list[Any]:
    """The calls, the text and the reason that a parrot of these words answers with."""
    gguf.parrot(folder / "said.gguf", says)
    command = [sys.executable, "-c", ALONE, str(folder), "form" * form, "streamed" * streamed]
    tests = Path(__file__).parents[1]
    path = {"PYTHONPATH": f"{tests.parent / 'src'}:{tests}"}
    run = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=100, env={**os.environ, **path}
    )
    assert run.returncode == 0, run.stderr[-2000:]
    answered: list[Any] = json.loads(run.stdout.splitlines()[-1])
    return answered


PARIS = [["get_weather", {"city": "Paris"}]]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("says", "answered"),
    [
        ((f"call {HELD[0]}", *HELD[1:]), [PARIS, "", ["tool_calls"]]),
        (('{"city', '": "Rome"}'), [[], '{"city": "Rome"}', ["stop"]]),
    ],
)
async def test_a_model_may_call_or_answer_in_a_form(
    tmp_path: Path, says: tuple[str, ...], answered: list[Any], *, streamed: bool
) -> None:
    assert await alone(tmp_path, says, form=True, streamed=streamed) == answered


async def test_a_model_that_begins_a_call_of_itself_makes_it(tmp_path: Path) -> None:
    """It knows no tools, and may say what it likes: a brace at the start is a call."""
    assert await alone(tmp_path, HELD, form=False) == [PARIS, "", ["tool_calls"]]


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_calls_of_a_model_that_was_taught_are_found(tmp_path: Path, *, streamed: bool) -> None:
    taught = row(id="taught.gguf")
    gguf.parrot(tmp_path / "taught.gguf", ["I will ", "look.\n", *CALL], template=TAUGHT)
    async with opened(options(tmp_path, context=4096), taught) as (engine,):
        made = await chunks(engine, asking(model=taught, streamed=streamed))
        assert calls(made) == [("get_weather", {"city": "Paris"})]
        assert reason(made) == ["tool_calls"]
        assert "".join(chunk.text for chunk in made).strip() == "I will look."
        assert (len([chunk for chunk in made if chunk.text]) > 1) == streamed


async def test_a_model_that_was_taught_reads_calls_and_results_as_it_learnt_them() -> None:
    told = (*CALLED, Message("tool", "snow", call_id="c1"))
    ask = evolve(asked(told, ROW), tools=TOOLS)
    body = request(ask, knows_tools=True).body
    assert [tool["function"]["name"] for tool in body["tools"]] == ["get_weather", "send_mail", "stop"]
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'
    assert body["messages"][2] == {"role": "tool", "content": "snow", "tool_call_id": "c1"}
    roles = [each["role"] for each in request(ask).body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.model
@pytest.mark.parametrize("is_chat", [True, False])
@pytest.mark.parametrize("others", [0, 3])
async def test_how_likely_each_token_was_is_told(engine: Llama, others: int, *, is_chat: bool) -> None:
    said = (Message("user", "Count to five."),) if is_chat else "One, two,"
    made = await chunks(engine, asked(said, ROW, max_tokens=6, temperature=0.0, logprobs=others))
    told = [token for chunk in made for token in chunk.logprobs]
    assert "".join(token["token"] for token in told) == "".join(chunk.text for chunk in made)
    assert len(told) == 6
    for token in told:
        assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
        assert token["logprob"] <= 0
        assert bytes(token["bytes"]).decode() == token["token"]
        assert len(token["top_logprobs"]) == others
        assert all(set(other) == {"token", "logprob", "bytes"} for other in token["top_logprobs"])


@pytest.mark.model
async def test_nothing_is_told_of_tokens_where_nobody_asks(engine: Llama) -> None:
    assert not [1 for chunk in await chunks(engine, asked("One, two,", ROW)) if chunk.logprobs]


async def test_thoughts_stand_apart_from_the_answer(tmp_path: Path) -> None:
    thinks = row(id="thinks.gguf")
    gguf.parrot(tmp_path / "thinks.gguf", ["<thi", "nk>", "Hm.", "</thin", "k>", "Yes!"], template=THINKS)
    async with opened(options(tmp_path), thinks) as (engine,):
        made = await chunks(engine, asked((Message("user", "Well?"),), thinks))
    assert "".join(chunk.text for chunk in made).strip() == "Yes!"
    assert "".join(chunk.reasoning for chunk in made).strip() == "Hm."
