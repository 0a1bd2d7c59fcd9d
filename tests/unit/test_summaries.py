"""Summaries: by a model that shortens by itself, and piece by piece by one that chats."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from built import ANN, opened
from loquent.domain.errors import EngineFailed, Invalid
from loquent.domain.summaries import LENGTHS, instruction, piece_characters
from loquent.domain.texts import pieces
from loquent.services.summaries import Wish
from loquent.wiring import Services

pytestmark = pytest.mark.anyio
TEXT = (
    "The river Aare rises in the glaciers of the Bernese Alps. It flows through two lakes, and then around the old "
    "town of Bern. The river Aare joins the Rhine near Koblenz. Many people swim in the river Aare in summer. "
    "Bern built weirs on the river to hold back its floods."
)


async def summarize(services: Services, text: str, wish: Wish) -> tuple[object, object]:
    begun = await services.summaries.begin(ANN, text, wish, surface="cli")
    await services.generations.collect(begun)
    return begun.now()


async def test_sentences_of_the_text_are_chosen_with_their_places(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        generation, content = await summarize(services, TEXT, Wish(length="short"))
    assert generation.model == "extractive"
    assert generation.input_characters == len(TEXT)
    assert content.sources is not None
    spans = content.sources["spans"]
    assert spans == sorted(spans)
    assert all(TEXT[start:end] in content.output for start, end in spans)
    assert len(content.output) < len(TEXT)


async def test_longer_wishes_give_longer_summaries(tmp_path: Path) -> None:
    chosen = random.Random(7)
    words = ["".join(chosen.choices("abcdefghijklmnop", k=chosen.randint(3, 9))) for _ in range(400)]
    text = " ".join(" ".join(chosen.choices(words, k=12)).capitalize() + "." for _ in range(80))
    async with opened(tmp_path) as services:
        sizes = [len((await summarize(services, text, Wish(length=length)))[1].output) for length in LENGTHS]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


async def test_a_long_text_is_worked_on_piece_by_piece_and_all_of_it_is_read(tmp_path: Path) -> None:
    """The echo model says back what it is asked, so every piece's own mark must come to the joining step."""
    marks = [f"mark{number:02d}" for number in range(6)]
    text = "\n\n".join(f"{mark} " + "word " * 90 for mark in marks)
    async with opened(tmp_path) as services:
        begun = await services.summaries.begin(ANN, text, Wish(model="echo", length="long"), surface="cli")
        assert begun.live is not None
        asked: list[str] = []
        engine = begun.live.offer.engine
        stream = engine.stream

        def listening(ask):
            asked.append(ask.messages[0].content)
            return stream(ask)

        engine.stream = listening  # type: ignore[method-assign]  # to see what is asked; it still answers itself
        await services.generations.collect(begun)
        generation, content = begun.now()
    assert len(asked) > 2
    assert all(any(mark in prompt for prompt in asked) for mark in marks)
    assert all(len(prompt) < piece_characters(1000) + 400 for prompt in asked)
    assert generation.steps == generation.steps_done > 1
    assert generation.input_characters == len(text.strip())
    assert generation.prompt_tokens > len(text.split())
    assert content.output


async def test_a_text_is_cut_in_a_thread_of_its_own(tmp_path: Path) -> None:
    """Of a long one that takes seconds, in which the loop serves everybody else."""
    threads: set[int] = set()

    def watching(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is pieces.__code__:
            threads.add(threading.get_ident())

    before = sys.getprofile()
    async with opened(tmp_path) as services:
        begun = await services.summaries.begin(ANN, "Some words. " * 300, Wish(model="echo"), surface="cli")
        threading.setprofile(watching)
        sys.setprofile(watching)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())  # of threads that are watched from birth
        try:
            await services.generations.collect(begun)
        finally:
            sys.setprofile(before)
            threading.setprofile(None)  # type: ignore[arg-type]  # so one ends it
    assert threads
    assert threading.get_ident() not in threads


async def test_a_fault_in_one_piece_ends_the_whole_and_leaves_nothing_running(tmp_path: Path) -> None:
    text = "fine words here. " * 200 + "[fail] " + "more words there. " * 200
    async with opened(tmp_path) as services:
        begun = await services.summaries.begin(ANN, text, Wish(model="echo"), surface="cli")
        with pytest.raises(EngineFailed):
            await services.generations.collect(begun)
        kept, _ = await services.generations.get(ANN, begun.generation.id)
        assert not services.runner.lives
    assert kept.status == "failed"


async def test_texts_out_of_bounds_and_unknown_wishes_are_refused_by_name(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for text, wish, field in (
            ("x" * 49, Wish(), "text"),
            ("x" * 50_001, Wish(), "text"),
            ("   " + "x" * 49 + "   ", Wish(), "text"),
            (TEXT, Wish(length="endless"), "length"),
            (TEXT, Wish(language="German"), "language"),
            (TEXT, Wish(model="prompt-only"), "model"),
        ):
            with pytest.raises(Invalid) as refused:
                await services.summaries.submit(ANN, text, wish, surface="summaries")
            assert refused.value.field == field
        begun = await services.summaries.submit(ANN, "x" * 50_000, Wish(), surface="summaries")
        assert begun.generation.status == "pending"


async def test_a_file_may_be_far_longer_than_a_text(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text(TEXT * 300)
    async with opened(tmp_path) as services:
        begun, read = await services.summaries.submit_file(ANN, file, "long.txt", Wish(), surface="summaries")
        async for event in services.generations.follow(ANN, begun.generation.id):
            if event.kind == "done" and event.generation:
                assert event.generation.status == "completed"
                assert event.generation.input_characters == len(read.text) > 50_000
                return


@given(st.integers(min_value=256, max_value=1_000_000))
def test_a_piece_with_its_instruction_and_answer_fits_the_context(context: int) -> None:
    if context < 900:
        return  # a context that small holds no instruction; the engine says so
    tokens_at_worst = piece_characters(context) / 2 + max(LENGTHS.values()) + len(instruction("German", "long", "")) / 4
    assert tokens_at_worst <= context
