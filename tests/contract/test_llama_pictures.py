"""Pictures for the embedded engine: a small model with eyes, both made by chance: it looks, and says nonsense."""

from __future__ import annotations

import io
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loquent.domain.errors import Invalid, NotInstalled, TooLarge, Unavailable
from loquent.domain.requests import Message, Picture
from loquent.engines.llama import Llama
from loquent.engines.llama_ask import request
from loquent.engines.llama_pictures import MOST
from loquent.ports.engine import Ask
from samples import gguf, pictures

from .llamas import asked, chunks, opened, options, row, text

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ROW = row(id="small.gguf", projector="eyes.gguf", abilities=frozenset(("chat", "vision")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eyes")
    gguf.model(folder / "small.gguf")
    gguf.projector(folder / "eyes.gguf")
    return folder


@pytest.fixture(scope="module")
async def engine(folder: Path) -> AsyncIterator[Llama]:
    async with opened(options(folder, context=1024), ROW) as (engine,):
        yield engine


def picture(kind: str = "PNG", colour: str = "red", size: tuple[int, int] = (64, 48), **more: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, **more)
    return file.getvalue()


def shown(*data: bytes, said: str = "What is it?", model: Any = ROW) -> Ask:
    seen = tuple(Picture("image/png", each) for each in data)
    return asked((Message("user", said, seen),), model, max_tokens=8, temperature=0.0)


async def test_the_picture_is_in_the_answer(engine: Llama) -> None:
    words = pictures.text(("A lighthouse",))
    first = await text(engine, shown(words))
    assert first == await text(engine, shown(words))
    assert first != await text(engine, shown(picture()))
    assert first != await text(engine, asked((Message("user", "What is it?"),), ROW, max_tokens=8, temperature=0.0))


async def test_a_picture_s_tokens_are_counted(engine: Llama) -> None:
    used = [
        chunk.usage.prompt_tokens
        for ask in (shown(picture()), shown(picture(), picture(colour="blue")))
        for chunk in await chunks(engine, ask)
        if chunk.usage
    ]
    assert used[1] - used[0] >= 16


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
async def test_the_common_kinds_are_seen_whatever_the_caller_calls_them(engine: Llama, kind: str) -> None:
    assert await text(engine, shown(picture(kind)))


async def test_a_picture_without_words_is_taken(engine: Llama) -> None:
    assert await text(engine, shown(picture(), said=""))


BAD = {
    "another kind": picture("WEBP"),
    "no picture": b"RIFF....AVI LIST",
    "nothing": b"",
    "half a head": picture()[:20],
    "half": picture(size=(400, 300), colour="green")[:200],
    "a JPEG of nothing": b"\xff\xd8\xff",
    "a JPEG that leads nowhere": b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100,
    "no pixels": picture()[:16] + struct.pack(">II", 0, 10) + picture()[24:],
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
async def test_what_is_no_picture_is_refused(engine: Llama, data: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        await text(engine, shown(data))
    assert refused.value.field == "messages"
    assert await text(engine, shown(picture()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
async def test_a_picture_that_unfolds_too_far_is_refused_before_it_is_read(engine: Llama, kind: str) -> None:
    data, many = picture(kind, size=(64, 48)), 60_000
    before, after = {
        "PNG": (struct.pack(">II", 64, 48), struct.pack(">II", many, many)),
        "JPEG": (struct.pack(">HH", 48, 64), struct.pack(">HH", many, many)),
        "GIF": (struct.pack("<HH", 64, 48), struct.pack("<HH", many, many)),
    }[kind]
    assert data.count(before)
    with pytest.raises(TooLarge, match=f"60000 x 60000 pixels; at most {MOST}"):
        await text(engine, shown(data.replace(before, after)))


def test_the_body_holds_the_picture_before_the_words() -> None:
    (said,) = request(shown(picture())).body["messages"]
    assert [part["type"] for part in said["content"]] == ["image_url", "text"]
    assert said["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


async def test_without_a_projector_a_picture_is_refused(folder: Path) -> None:
    blind = row(id="small.gguf")
    async with opened(options(folder), blind) as (engine,):
        with pytest.raises(Invalid, match="no projector"):
            await text(engine, shown(picture(), model=blind))
    few_shot = row(id="small.gguf", template="few-shot", projector="eyes.gguf")
    with pytest.raises(Invalid, match="base model"):
        request(shown(picture(), model=few_shot))


async def test_a_projector_that_is_not_there_is_named(tmp_path: Path) -> None:
    gguf.model(tmp_path / "small.gguf")
    async with opened(options(tmp_path), ROW) as (engine,):
        with pytest.raises(NotInstalled, match=r"its projector \(eyes\.gguf\) is not here"):
            await text(engine, shown(picture()))
        gguf.projector(tmp_path / "eyes.gguf")
        assert await text(engine, shown(picture()))


@pytest.mark.parametrize("how", ["not GGUF", "another model", "cut off", "of another width"])
async def test_a_bad_projector_is_said(folder: Path, tmp_path: Path, how: str) -> None:
    gguf.model(tmp_path / "small.gguf")
    eyes = tmp_path / "eyes.gguf"
    if how == "not GGUF":
        eyes.write_bytes(b"not a model" * 100)
    elif how == "another model":
        gguf.model(eyes)
    elif how == "cut off":
        eyes.write_bytes((folder / "eyes.gguf").read_bytes()[:20_000])
    else:
        gguf.projector(eyes, width=96)
    async with opened(options(tmp_path), ROW) as (engine,):
        with pytest.raises(Unavailable, match=r"eyes\.gguf"):
            await text(engine, shown(picture()))
