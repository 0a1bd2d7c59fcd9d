"""Presets: each user's own parameters, set once for one surface."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from built import ANN, ANN_ELSEWHERE, BOB, opened

pytestmark = pytest.mark.anyio


async def test_what_is_set_is_ones_own_on_that_surface_in_that_tenant(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        presets = services.presets
        await presets.put(ANN, "textgen", {"top_p": 0.5})
        assert await presets.get(ANN, "textgen") == {"top_p": 0.5}
        for who, surface in ((BOB, "textgen"), (ANN_ELSEWHERE, "textgen"), (ANN, "chat")):
            assert await presets.get(who, surface) == {}


async def test_what_is_set_again_takes_the_place_of_all_that_was_set(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        for parameters in ({"top_p": 0.5, "temperature": 1.0}, {"top_p": 0.7}, {"top_p": 0.7}):
            await services.presets.put(ANN, "textgen", parameters)
            assert await services.presets.get(ANN, "textgen") == parameters


async def test_of_many_at_once_one_stands_whole(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, LOQUENT_STORE=f"sqlite:///{tmp_path}/x.db") as services:
        wishes = [{"top_p": n / 20, "max_length": n} for n in range(1, 20)]
        await asyncio.gather(*(services.presets.put(ANN, "textgen", each) for each in wishes))
        assert await services.presets.get(ANN, "textgen") in wishes
