"""Vectors of texts by the embedded engine; the first layers of a real model make them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from loquent.domain.errors import ContextOverflow, Invalid
from loquent.domain.evolve import evolve
from loquent.domain.models import Model
from loquent.domain.requests import NOTHING
from loquent.engines.llama import Llama
from loquent.ports.engine import Ask

from .llamas import CONTEXT, all_free, asked, chunks, opened, options, row, text

pytestmark = [pytest.mark.anyio, pytest.mark.model, pytest.mark.timeout(120), pytest.mark.xdist_group("llama")]

ROW = row(abilities=frozenset(("embeddings",)))


@pytest.fixture(scope="module")
async def engine(short: Path) -> AsyncIterator[Llama]:
    async with opened(options(short.parent), ROW) as (engine,):
        yield engine


def asking(*texts: str, model: Model = ROW) -> Ask:
    return Ask(model, NOTHING, texts=texts)


async def vectors(engine: Llama, *texts: str, model: Model = ROW) -> list[Sequence[float]]:
    return [vector for chunk in await chunks(engine, asking(*texts, model=model)) for vector in chunk.vectors]


def alike(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_texts_become_vectors_of_length_one_in_their_order(engine: Llama) -> None:
    texts = ["The cat sleeps.", "A bird sings in the tree.", "Stock prices fell.", "Ein Vogel.", "🦜"]
    made = await vectors(engine, *texts)
    assert len(made) == len(texts)
    assert {len(vector) for vector in made} == {576}
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-4) for vector in made)
    for said, vector in zip(texts, made, strict=True):
        (alone,) = await vectors(engine, said)
        assert alike(alone, vector) > 0.9999


async def test_the_use_is_counted_and_said_at_the_end(engine: Llama) -> None:
    (one,) = [each.usage for each in await chunks(engine, asking("word")) if each.usage]
    (two,) = [each.usage for each in await chunks(engine, asking("word", "word", "word")) if each.usage]
    assert one.prompt_tokens > 0
    assert two.prompt_tokens == 3 * one.prompt_tokens
    assert two.completion_tokens == 0
    assert (await chunks(engine, asking("word")))[-1].finish_reason == "stop"


async def test_a_text_as_long_as_the_context_fits_and_a_longer_one_is_told_both_lengths(engine: Llama) -> None:
    assert await vectors(engine, "word " * (CONTEXT - 20))
    with pytest.raises(ContextOverflow, match=rf"is \d+ tokens, and the model takes {CONTEXT}"):
        await vectors(engine, "word " * (CONTEXT * 2))


@pytest.mark.parametrize("odd", ["", "\ud800"])
async def test_what_is_no_text_is_refused(engine: Llama, odd: str) -> None:
    with pytest.raises(Invalid) as refused:
        await vectors(engine, "good", odd)
    assert refused.value.field == "input"


@pytest.mark.parametrize("odd", ["\0", " ", "\n\n", "<|im_end|>", "﷽"])
async def test_odd_texts_have_vectors_too(engine: Llama, odd: str) -> None:
    assert len(await vectors(engine, odd)) == 1


async def test_the_size_of_vectors_is_the_model_s(engine: Llama) -> None:
    with pytest.raises(Invalid) as refused:
        await chunks(engine, evolve(asking("word"), dimensions=64))
    assert refused.value.field == "dimensions"


async def test_a_row_for_vectors_answers_nothing_and_one_for_answers_makes_none(engine: Llama, short: Path) -> None:
    with pytest.raises(Invalid, match="answers nothing"):
        await text(engine, asked("One"))
    async with opened(options(short.parent, at_start=lambda name: False), row()) as (answers,):
        with pytest.raises(Invalid, match="makes no vectors"):
            await chunks(answers, asking("word"))


async def test_one_row_may_do_both(engine: Llama, short: Path) -> None:
    both = row(name="both", abilities=frozenset(("chat", "text", "embeddings")))
    async with opened(options(short.parent), both) as (engine_of_both,):
        answer, made = await asyncio.gather(
            text(engine_of_both, asked("One, two,", both)), vectors(engine_of_both, "bird", model=both)
        )
    assert answer
    assert alike(made[0], (await vectors(engine, "bird"))[0]) > 0.9999


async def test_who_hangs_up_frees_the_slot_within_a_few_texts(engine: Llama) -> None:
    tasks = [asyncio.create_task(vectors(engine, *["a lighthouse by the sea"] * 500)) for _ in range(4)]
    while engine.running() < 4:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await all_free(engine)
    assert not engine._main.place.calls
    assert await vectors(engine, "bird")


async def test_many_askers_at_once_get_their_own(engine: Llama) -> None:
    texts = [f"text number {number}" for number in range(8)]
    alone = [(await vectors(engine, said))[0] for said in texts]
    together = await asyncio.gather(*(vectors(engine, said) for said in texts))
    assert all(alike(one, other[0]) > 0.9999 for one, other in zip(alone, together, strict=True))
    assert all(alike(one, other) < 0.99999 for one, other in pairwise(alone))
