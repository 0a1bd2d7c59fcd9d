"""Long prompts at the embedded model: read one at a time, and nobody with a short one waits for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loquent.domain.errors import EngineTimeout
from loquent.domain.models import Timeouts

from .llamas import asked, opened, options, row, text

pytestmark = [pytest.mark.anyio, pytest.mark.model, pytest.mark.timeout(180), pytest.mark.xdist_group("llama")]

WORDS = "a lighthouse by the sea and " * 350  # to read them takes a second or so
CONTEXT = 4096


async def test_short_prompts_are_answered_while_long_ones_that_came_before_are_read(short: Path) -> None:
    async with opened(options(short.parent, slots=4, context=CONTEXT), row()) as (engine,):
        await text(engine, asked("One, two,", max_tokens=2))
        order: list[str] = []

        async def ask(name: str, said: str) -> None:
            await text(engine, asked(said, max_tokens=1))
            order.append(name)

        names = ("first", "second", "third")
        long = [asyncio.create_task(ask(name, f"{name} {WORDS}")) for name in names]
        await asyncio.sleep(0.1)
        for name in "abc":
            await ask(name, f"{name}, who are you?")
        assert "second" not in order
        await asyncio.gather(*long)
        assert [name for name in order if name in names] == list(names), "as they came"


async def test_a_long_prompt_whose_asker_leaves_lets_the_next_be_read(short: Path) -> None:
    async with opened(options(short.parent, context=CONTEXT), row()) as (engine,):
        asks = [asked(f"{name} {WORDS}", max_tokens=1) for name in ("first", "second", "third", "fourth")]
        tasks = [asyncio.create_task(text(engine, ask)) for ask in asks]
        await asyncio.sleep(0.2)
        for at in (0, 2):  # one that is read, and one in line
            tasks[at].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in done] == [True, False, True, False]


async def test_a_long_prompt_is_in_line_no_longer_than_it_has_time(short: Path) -> None:
    async with opened(options(short.parent, context=CONTEXT), row()) as (engine,):
        await text(engine, asked("One, two,", max_tokens=2))
        first = asyncio.create_task(text(engine, asked(f"first {WORDS}", max_tokens=1)))
        await asyncio.sleep(0.1)
        with pytest.raises(EngineTimeout):
            await text(engine, asked(f"second {WORDS}", row(timeouts=Timeouts(total=0.1)), max_tokens=1))
        assert not first.done()
        await first
        async with asyncio.timeout(60):
            await text(engine, asked("One, two,", max_tokens=1))
