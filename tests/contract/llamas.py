"""Rows of the embedded engine and asks of them, for the tests of what it does beyond the contract of all engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from loquent.domain.models import Model
from loquent.domain.requests import Message, Parameters
from loquent.engines import Options
from loquent.engines.llama import Llama
from loquent.ports.engine import Ask, Chunk

from .engines import WEIGHTS

CONTEXT = 512
LAYERS = 2  # of the short weights
LONG = 90.0  # seconds that an ask waits for its model, on a machine that is busy with others


def row(**more: Any) -> Model:
    return Model(**{"name": "small", "engine": "llama", "id": WEIGHTS, **more})


def options(folder: Path, slots: int = 2, **more: Any) -> Options:
    return Options(**{"models_dir": folder, "slots": slots, "threads": 1, "context": CONTEXT, **more})


@asynccontextmanager
async def opened(given: Options, *models: Model) -> AsyncIterator[tuple[Llama, ...]]:
    """Engines of one deployment, open; they are closed after."""
    engines = tuple(Llama(model, given) for model in models)
    try:
        for engine in engines:
            await engine.open()
            for hold in engine._holds.values():
                hold.patience = LONG  # tests that are about its patience set their own
        yield engines
    finally:
        for engine in engines:
            await engine.close()


def asked(said: str | tuple[Message, ...], model: Model | None = None, **wanted: Any) -> Ask:
    parameters = Parameters(**{"max_tokens": 24, **wanted})
    if isinstance(said, str):
        return Ask(model or row(), parameters, prompt=said)
    return Ask(model or row(), parameters, said)


async def chunks(engine: Llama, ask: Ask) -> list[Chunk]:
    return [chunk async for chunk in engine.stream(ask)]


async def text(engine: Llama, ask: Ask) -> str:
    return "".join([chunk.text async for chunk in engine.stream(ask)])


async def all_free(*engines: Llama) -> None:
    async with asyncio.timeout(60):
        while any(engine.running() for engine in engines):  # the slots are freed in threads, which ring no bell
            await asyncio.sleep(0.01)
