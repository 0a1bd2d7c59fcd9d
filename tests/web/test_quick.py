"""Bodies that are read quickly: never one that the model would refuse, and never to mean something else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loquent.domain.errors import Invalid
from loquent.web.api.asked import NewGeneration
from loquent.web.body import read_json, validate
from loquent.web.compat.openai_ask import ChatCompletion, TextCompletion
from loquent.web.quick import usual

MODELS = (ChatCompletion, TextCompletion, NewGeneration)
SAID = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": 'He said: "no": \\ ü 漢'}]
CHAT = {"model": "m", "messages": SAID, "max_tokens": 5, "temperature": 1, "stop": ["a", "b"], "stream": False}
USUAL: list[tuple[Any, Any]] = [
    (ChatCompletion, CHAT),
    (ChatCompletion, {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "stop": "a", "seed": -7}),
    (TextCompletion, {"model": "m", "prompt": "Once"}),
    (TextCompletion, {"model": "m", "prompt": ["Once"], "top_p": 0.5, "n": 1}),
    (NewGeneration, {"prompt": "Once", "stream": True}),
    (NewGeneration, {"messages": [{"role": "user", "content": "Hello"}], "background": True, "cache": False}),
]


def meaning(read: Any) -> tuple[Any, ...]:
    """What a handler takes from a body."""
    more = [getattr(read, name, None) for name in ("background", "cache", "n", "stream_options")]
    more = [more[3] and more[3].include_usage, *more[:3]]
    return read.model, read.stream, read.parameters(), read.stored(), *more


def outcome(read: Any) -> Any:
    """The same, or what a handler refuses of a body that the model takes."""
    try:
        return meaning(read)
    except Invalid as refused:
        return refused.message


@pytest.mark.parametrize(("model", "asked"), USUAL)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_usual_body_is_read_quickly_and_means_the_same(model: Any, asked: Any, indent: int | None) -> None:
    raw = json.dumps(asked, indent=indent, ensure_ascii=False).encode()
    quick = usual(model, raw)
    assert isinstance(quick, msgspec.Struct)
    assert meaning(quick) == meaning(validate(model, read_json(raw)))


TWICE = [
    '{"model":"m","model":"n","messages":[{"role":"user","content":"x"}]}',
    '{"model":"m","model" : "n","messages":[{"role":"user","content":"x"}]}',
    '{"model":"m","model"\t\n:"n","messages":[{"role":"user","content":"x"}]}',
    '{"model":"m","messages":[{"role":"user","content":"x","content":"y"}]}',
    '{"model":"m","messages":[{"role":"user","content":"y","content":"x\\u0022:"}]}',
    '{"model":"m","mod\\u0065l":"n","messages":[{"role":"user","content":"x"}]}',
    '{"model":"m","user":"a\\":b","user":"c","messages":[{"role":"user","content":"x"}]}',
    '{"model":"m","model":"n","messages":[{"role":"user","content":"\\" :"}]}',
]


@pytest.mark.parametrize("raw", TWICE)
def test_a_key_that_stands_twice_is_left_to_the_strict_reader(raw: str) -> None:
    assert usual(ChatCompletion, raw.encode()) is None


def test_a_struct_alone_would_take_a_key_twice() -> None:
    """The negative control: it is the count of keys that sees it."""
    made = msgspec.defstruct("Made", [("model", str)])
    assert msgspec.json.decode('{"model":"m","model":"n"}', type=made).model == "n"


UNUSUAL = [
    *("", "{}", "[]", "null", "{", '{"model":1}', '{"model":""}', "\ufeff{}", '{"model":"m","unknown":1}'),
    '{"model":"m","messages":[]}',
    '{"model":"m","messages":[{"role":"nobody","content":"x"}]}',
    '{"model":"m","messages":[{"role":"user","content":"a\\u0000b"}]}',
    '{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
    '{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    '{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e999}',
    '{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":1.0}',
    '{"model":"m","messages":[{"role":"user","content":"x"}],"seed":9223372036854775808}',
    '{"model":"m","messages":[{"role":"user","content":"x"}],"seed":-9223372036854775808}',
    '{"model":"m","messages":[{"role":"user","content":"x"}],"stream":1}',
    '{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[]}',
    '{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}]}',
    '{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"}}',
]


@pytest.mark.parametrize("raw", UNUSUAL)
def test_whatever_is_unusual_is_left_to_the_model(raw: str) -> None:
    assert usual(ChatCompletion, raw.encode()) is None


def test_a_body_that_is_not_utf_8_is_left_to_the_model() -> None:
    assert usual(TextCompletion, b'{"model":"m","prompt":"\xed\xa0\x80"}') is None


def test_what_a_model_checks_of_the_whole_is_checked() -> None:
    for asked in ({}, {"prompt": "a", "messages": SAID}, {"prompt": "a", "stream": True, "background": True}):
        assert usual(NewGeneration, json.dumps(asked).encode()) is None


names = st.sampled_from([*CHAT, "prompt", "n", "seed", "top_p", "background", "cache", "user", "tools", "x"])
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, ["a"], SAID, [{"role": "user"}], [{"role": "tool", "content": "x"}], 2**63, 2**64, '":']),
)


@given(st.sampled_from(USUAL), st.dictionaries(names, odd, max_size=3), st.booleans())
def test_nothing_is_taken_that_the_model_refuses(usual_body: Any, changes: Any, is_ascii: bool) -> None:
    model, asked = usual_body
    raw = json.dumps({**asked, **changes}, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    for each in (model, *MODELS):
        quick = usual(each, raw)
        if quick is not None:
            assert outcome(quick) == outcome(validate(each, read_json(raw)))


letters = st.text(alphabet='":,{}[]\\u0 ammodel2', max_size=40)


def test_what_a_handler_refuses_it_refuses_alike() -> None:
    raw = b'{"model":"m","messages":[{"role":"user"}]}'
    quick = usual(ChatCompletion, raw)
    assert quick is not None, "or this shows nothing"
    assert outcome(quick) == outcome(validate(ChatCompletion, read_json(raw))) == "messages.0.content: it is missing"


@given(letters, letters)
def test_nor_among_bytes_that_are_nearly_json(before: str, after: str) -> None:
    raw = f'{{"model":"m",{before}"prompt":"{after}"}}'.encode()
    quick = usual(TextCompletion, raw)
    if quick is not None:
        assert outcome(quick) == outcome(validate(TextCompletion, read_json(raw)))
