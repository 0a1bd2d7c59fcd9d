"""Images below every surface: which model sees, what a failure leaves behind, and what a deployment must have."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from built import ANN, BOB, ROWS, opened, settings_for
from loquent.domain.clock import Moment, later, now
from loquent.domain.errors import Conflict, Invalid, LoquentError, Misconfigured, NotFound, StillRunning, Unavailable
from loquent.domain.images import Image
from loquent.domain.models import Model
from loquent.domain.requests import NOTHING, Message, Picture
from loquent.engines.openai_ask import body
from loquent.ports.blobs import Blobs, Kept
from loquent.ports.engine import Ask
from loquent.readers import picture_cleaner
from loquent.services.images import Images, Question
from loquent.services.limits import Over
from loquent.services.wanted import Begun, Key
from loquent.wiring import Services
from loquent.wiring.models import build_models
from loquent.wiring.rows import model_rows
from samples import pictures

pytestmark = pytest.mark.anyio

PREDICTOR = {"IMAGE_MODEL_URL": "http://127.0.0.1:9/predict"}
TWO = '\n[[model]]\nname = "eyes"\nengine = "echo"\nid = "echo"\nabilities = ["vision", "chat"]\n'


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with opened(tmp_path, works=False) as found:
        yield found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(pictures.plain("JPEG"))
    return path


async def blobs_of(services: Services) -> list[str]:
    return [each.key async for each in services.blobs.list(until=later(now(), 60))]


# Which model


def picked(folder: Path, rows: str, **environ: str) -> str:
    found = settings_for(folder, **environ)
    assert found.models is not None
    found.models.write_text(rows)
    return build_models(found).pick_for_image(None).model.name


def test_the_first_model_that_sees_is_the_one_unless_a_setting_says_another(tmp_path: Path) -> None:
    assert picked(tmp_path, ROWS + TWO) == "seer"
    assert picked(tmp_path, ROWS + TWO, **PREDICTOR) == "image-predictor"
    assert picked(tmp_path, ROWS + TWO, LOQUENT_IMAGE_MODEL="eyes", **PREDICTOR) == "eyes"


@pytest.mark.parametrize("name", ["echo", "nobody"])
def test_a_setting_that_names_no_model_that_sees_stops_the_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misconfigured, match=f"LOQUENT_IMAGE_MODEL holds '{name}'; it takes one of: seer"):
        picked(tmp_path, ROWS, LOQUENT_IMAGE_MODEL=name)


def test_without_any_the_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="set LOQUENT_IMAGE_MODEL or IMAGE_MODEL_URL"):
        picked(tmp_path, ROWS.replace("vision", "text"))


def test_the_shipped_recogniser_is_there_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings_for(tmp_path)
    object.__setattr__(found, "models", None)
    assert "ocr" in [row.name for row in model_rows(found)]
    monkeypatch.setitem(sys.modules, "rapidocr", None)  # as where it is not installed
    assert "ocr" not in [row.name for row in model_rows(found)]


def test_a_row_of_ones_own_for_what_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(Misconfigured, match=r'pip install "loquent\[ocr\]"'):
        picked(tmp_path, ROWS + TWO.replace('"echo"', '"ocr"', 1))


async def test_without_pillow_pictures_name_the_extra(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Unavailable, match=r"loquent\[images\] is not installed"):
        await picture_cleaner().clean(picture, "a.jpg")


def on_the_wire(*messages: Message) -> list[dict[str, Any]]:
    asked = Ask(Model("m", "openai", "m"), NOTHING, messages)
    said: list[dict[str, Any]] = json.loads(body(asked, "m", is_original=False))["messages"]
    return said


def test_pictures_go_to_openais_wire_as_data_urls() -> None:
    shown = Message("user", "What is it?", (Picture("image/png", b"one"), Picture("image/webp", b"two")))
    assert on_the_wire(Message("system", "Be brief."), shown) == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,b25l"}},
                {"type": "image_url", "image_url": {"url": "data:image/webp;base64,dHdv"}},
            ],
        },
    ]
    (bare,) = on_the_wire(Message("user", "", (Picture("image/png", b"one"),)))
    assert [part["type"] for part in bare["content"]] == ["image_url"], "no empty text beside it"


# What is kept, and whose it is


async def test_what_is_kept_is_its_owners_alone(services: Services, picture: Path) -> None:
    image = (await services.images.keep(ANN, picture, "a.jpg", surface="api")).record
    assert (await services.images.get(ANN, image.id)).sha256 == image.sha256
    assert (await services.images.page(BOB, limit=9)).items == []
    for ask in (services.images.get, services.images.remove, services.images.original):
        with pytest.raises(NotFound):
            await ask(BOB, image.id)  # type: ignore[operator]
    with pytest.raises(NotFound):
        await services.images.ask(BOB, image.id, Question(), surface="api")
    assert await blobs_of(services) == [image.blob]


async def test_the_one_that_answers_is_shown_what_is_kept(services: Services, picture: Path) -> None:
    image = (await services.images.keep(ANN, picture, "a.jpg", surface="api")).record
    begun = await services.images.ask(ANN, image.id, Question("What is it?"), surface="api")
    generation, content = (await services.generations.collect(begun)).now()
    assert (generation.kind, generation.upload, generation.surface) == ("image", image.id, "api")
    assert content.output == "What is it?"


async def test_an_image_that_is_removed_in_between_is_told_so(services: Services, picture: Path) -> None:
    image = (await services.images.keep(ANN, picture, "a.jpg", surface="api")).record
    begun = await services.images.ask(ANN, image.id, Question(), surface="api")
    await services.images.remove(ANN, image.id)
    with pytest.raises(NotFound, match="removed"):
        await services.generations.collect(begun)


@dataclass
class Faulty:
    """Blobs that fail where they are told to; what is put and removed is told. ``meanwhile``: once, after a put."""

    inner: Blobs
    fails: str = ""
    did: list[str] = field(default_factory=list)
    meanwhile: list[Callable[[], Awaitable[object]]] = field(default_factory=list)

    async def put(self, key: str, path: Path) -> None:
        self._do("put")
        await self.inner.put(key, path)
        if self.meanwhile:
            await self.meanwhile.pop()()

    async def remove(self, key: str) -> None:
        self._do("remove")
        await self.inner.remove(key)

    def get(self, key: str) -> AsyncGenerator[bytes, None]:
        return self.inner.get(key)

    def address(self, key: str) -> str:
        return self.inner.address(key)

    def list(self, *, until: Moment) -> AsyncIterator[Kept]:
        return self.inner.list(until=until)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def ready(self) -> None: ...

    def _do(self, what: str) -> None:
        self.did.append(what)
        if what == self.fails:
            raise Unavailable("the place for uploaded files is full")


class FaultyStore:
    """A store whose writes fail; the rest is the inner one's."""

    def __init__(self, inner: Any, fault: LoquentError) -> None:
        self._inner, self._fault = inner, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, *changes: Any) -> None:
        raise self._fault


def images_of(services: Services, blobs: Blobs, store: Any = None) -> Images:
    cleaner = picture_cleaner()
    return Images(store or services.store, blobs, cleaner, services.generations, services.models, services.limits)


async def test_where_the_blob_cannot_be_kept_there_is_no_row(services: Services, picture: Path) -> None:
    blobs = Faulty(services.blobs, fails="put")
    with pytest.raises(Unavailable, match="full"):
        await images_of(services, blobs).keep(ANN, picture, "a.jpg", surface="api")
    assert await services.store.count(Image, "all", {}) == 0


@pytest.mark.parametrize(
    ("fault", "did"), [(Conflict("no"), ["put", "remove"]), (Unavailable("unknown whether it happened"), ["put"])]
)
async def test_a_blob_whose_row_is_refused_goes_and_one_whose_row_may_be_there_stays(
    services: Services, picture: Path, fault: LoquentError, did: list[str]
) -> None:
    blobs = Faulty(services.blobs)
    with pytest.raises(type(fault)):
        await images_of(services, blobs, FaultyStore(services.store, fault)).keep(ANN, picture, "a.jpg", surface="api")
    assert blobs.did == did


async def test_an_image_whose_blob_cannot_be_removed_now_is_gone_all_the_same(
    services: Services, picture: Path
) -> None:
    blobs = Faulty(services.blobs, fails="remove")
    images = images_of(services, blobs)
    image = (await images.keep(ANN, picture, "a.jpg", surface="api")).record
    await images.remove(ANN, image.id)
    with pytest.raises(NotFound):
        await images.get(ANN, image.id)
    assert await blobs_of(services) == [image.blob], "a sweep takes it"


async def test_a_bad_picture_leaves_nothing(services: Services, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(b"text")
    with pytest.raises(Invalid):
        await services.images.keep(ANN, path, "a.png", surface="api")
    assert await blobs_of(services) == []
    assert await services.store.count(Image, "all", {}) == 0


# Kept and asked about in one


async def sent(images: Images, path: Path, key: Key | None = None) -> Begun:
    return await images.keep_and_ask(ANN, path, "a.jpg", surface="images", key=key)


async def test_one_that_is_kept_beside_its_repeat_goes_again(services: Services, picture: Path) -> None:
    key, blobs, first = Key("POST /upload/image", "a key", b"body"), Faulty(services.blobs), list[Begun]()

    async def is_faster() -> None:
        first.append(await services.generations.collect(await sent(services.images, picture, key)))

    blobs.meanwhile.append(is_faster)
    begun = await sent(images_of(services, blobs), picture, key)
    assert (begun.replayed, begun.generation.id) == (True, first[0].generation.id)
    assert await blobs_of(services) == [f"images/{begun.generation.upload}"]
    assert await services.store.count(Image, "all", {}) == 1


async def test_one_that_is_kept_while_the_first_still_runs_goes_again(services: Services, picture: Path) -> None:
    key, blobs = Key("POST /upload/image", "a key", b"body"), Faulty(services.blobs)
    blobs.meanwhile.append(lambda: sent(services.images, picture, key))
    with pytest.raises(StillRunning):
        await sent(images_of(services, blobs), picture, key)
    assert (len(await blobs_of(services)), await services.store.count(Image, "all", {})) == (1, 1)


async def test_of_many_at_once_only_those_within_the_limit_are_kept(tmp_path: Path, picture: Path) -> None:
    async with opened(tmp_path, LOQUENT_LIMIT_GENERATIONS="5/minute") as services:
        calls = [sent(services.images, picture) for _ in range(12)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        uploads = {each.generation.upload for each in results if isinstance(each, Begun)}
        assert sum(isinstance(each, Over) for each in results) == 7
        assert set(await blobs_of(services)) == {f"images/{each}" for each in uploads}
        assert await services.store.count(Image, "all", {}) == len(uploads) == 5


async def test_a_repeat_outlives_its_image(services: Services, picture: Path) -> None:
    key = Key("POST /upload/image", "a key", b"body")
    made, _ = (await services.generations.collect(await sent(services.images, picture, key))).now()
    await services.images.remove(ANN, made.upload or "")
    again = await sent(services.images, picture, key)
    assert (again.generation.id, again.replayed) == (made.id, True)
    assert await services.store.count(Image, "all", {}) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it has a name")
async def test_a_picture_that_is_being_kept_has_no_name_that_a_killed_process_leaves(
    services: Services, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, blobs, seen = tmp_path / "temporary", Faulty(services.blobs), list[list[Path]]()
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    async def look() -> None:
        seen.append(await asyncio.to_thread(lambda: list(folder.iterdir())))

    blobs.meanwhile.append(look)
    await images_of(services, blobs).keep(ANN, picture, "a.jpg", surface="api")
    assert seen == [[]]
