"""LoRA adapters over weights that several rows share; the first layers of a real model answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loquent.domain.errors import NotInstalled, Unavailable
from loquent.domain.models import Adapter, Model
from loquent.domain.requests import Message
from loquent.engines import Options
from loquent.engines.llama import Llama
from samples import gguf

from .engines import WEIGHTS
from .llamas import LAYERS, asked, opened, options, row, text

pytestmark = [pytest.mark.anyio, pytest.mark.model, pytest.mark.timeout(120), pytest.mark.xdist_group("llama")]

SAID = (Message("user", "Name a bird."),)
PLAIN = row(name="plain")
SIZE = 6.0  # of an adapter's numbers: few layers have to turn the answer


def turned(name: str, *adapters: tuple[str, float]) -> Model:
    return row(name=name, adapters=tuple(Adapter(*each) for each in adapters))


FULL, OTHER = turned("full", ("one.gguf", 1.0)), turned("other", ("two.gguf", 1.0))
NONE, BOTH = turned("none", ("one.gguf", 0.0)), turned("both", ("one.gguf", 1.0), ("two.gguf", 1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, short: Path) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    (folder / WEIGHTS).symlink_to(short)
    gguf.adapter(folder / "one.gguf", 576, layers=LAYERS, size=SIZE)
    gguf.adapter(folder / "two.gguf", 576, layers=LAYERS // 2, size=SIZE)
    return folder


@pytest.fixture(scope="module")
async def engines(folder: Path) -> AsyncIterator[dict[str, Llama]]:
    """Five rows over one file."""
    rows = (PLAIN, FULL, OTHER, NONE, BOTH)
    async with opened(options(folder), *rows) as engines:
        yield dict(zip((each.name for each in rows), engines, strict=True))


async def said(engine: Llama, *, is_chat: bool = True) -> str:
    """The first words: further on two are as likely, and sums taken in another order decide."""
    return await text(engine, asked(SAID if is_chat else "A bird is", max_tokens=4, temperature=0.0))


@pytest.mark.parametrize("is_chat", [True, False])
async def test_an_adapter_changes_the_answer_and_at_scale_zero_does_not(
    engines: dict[str, Llama], *, is_chat: bool
) -> None:
    answers = {name: await said(engine, is_chat=is_chat) for name, engine in engines.items()}
    assert answers["none"] == answers["plain"]
    assert answers["plain"] not in (answers["full"], answers["both"])
    assert len({answers[name] for name in ("plain", "full", "other")}) == 3 or not is_chat  # a weak one, that


async def test_rows_that_differ_in_their_adapters_share_the_weights(engines: dict[str, Llama]) -> None:
    for engine in engines.values():
        await said(engine)
    assert len({id(engine._main.place.server) for engine in engines.values()}) == 1


async def test_rows_asked_at_the_same_time_keep_to_their_own_adapters(engines: dict[str, Llama]) -> None:
    rows = [engines[name] for name in ("plain", "full", "other", "none")]
    alone = [await said(engine) for engine in rows]
    together = await asyncio.gather(*(said(engine) for _ in range(4) for engine in rows))
    assert together == alone * 4


async def test_a_row_that_comes_later_brings_its_adapter(folder: Path) -> None:
    given = options(folder)
    async with opened(given, PLAIN) as (plain,):
        before = await said(plain)
        async with opened(given, FULL) as (full,):
            assert await said(full) != before
        assert await said(plain) == before


async def test_an_adapter_alone_is_as_one_among_others(folder: Path, engines: dict[str, Llama]) -> None:
    async with opened(options(folder), FULL) as (full,):
        assert await said(full) == await said(engines["full"])


def broken(folder: Path, how: str, given: Options, short: Path) -> None:
    path = given.models_dir / "bad.gguf"
    if how == "no adapter":
        path.symlink_to(short)
    elif how == "another kind":
        gguf.adapter(path, 576, layers=1, kind="ivector")
    elif how == "of another model":
        gguf.adapter(path, 64, layers=2)
    elif how == "cut off":
        path.write_bytes((folder / "one.gguf").read_bytes()[:20_000])
    else:
        path.write_bytes(b"not a model" * 1000)


@pytest.mark.parametrize("how", ["no adapter", "another kind", "of another model", "cut off", "not GGUF"])
async def test_a_bad_adapter_is_said_and_harms_no_other_row(
    folder: Path, tmp_path: Path, how: str, short: Path
) -> None:
    (tmp_path / WEIGHTS).symlink_to(short)
    (tmp_path / "one.gguf").symlink_to(folder / "one.gguf")
    given = options(tmp_path)
    broken(folder, how, given, short)
    async with opened(given, PLAIN, turned("bad", ("bad.gguf", 1.0)), FULL) as (plain, bad, full):
        before = await said(plain)
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"model bad: .*bad\.gguf"):
                await said(bad)
        assert await said(full) != before
        assert await said(plain) == before


async def test_an_adapter_that_is_not_there_is_named(tmp_path: Path, short: Path) -> None:
    (tmp_path / WEIGHTS).symlink_to(short)
    async with opened(options(tmp_path), FULL) as (full,):
        with pytest.raises(NotInstalled, match=r"its adapter \(one\.gguf\) is not here"):
            await said(full)
        gguf.adapter(tmp_path / "one.gguf", 576, layers=LAYERS, size=SIZE)
        assert await said(full)
