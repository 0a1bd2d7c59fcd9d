"""Cleaning pictures: what every cleaner must do with good ones, talkative ones, wrong files, broken ones and bombs."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

from loquent.domain.errors import Invalid, TooLarge, Unsupported
from loquent.domain.images import KINDS
from loquent.ports.pictures import Pictures
from loquent.readers import picture_cleaner
from samples import pdfs, pictures

pytestmark = pytest.mark.anyio

MEBIBYTE = 1 << 20
MOST = 1_000_000  # pixels


@pytest.fixture
def cleaner() -> Pictures:
    return picture_cleaner(max_bytes=MEBIBYTE, max_pixels=MOST, seconds=30)


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    def put(content: bytes) -> Path:
        path = tmp_path / "blob"
        path.write_bytes(content)
        return path

    return put


Put = Callable[[bytes], Path]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind.upper(), f"a.{kind}") for kind in KINDS]
    + [("JPEG", name) for name in ("", "no ending", "../../etc/passwd", "A B.JPG", "\0.jpeg", "x" * 300 + ".jpe")],
)
async def test_a_picture_stays_the_picture_that_it_is(cleaner: Pictures, put: Put, kind: str, name: str) -> None:
    clean = await cleaner.clean(put(pictures.plain(kind)), name)
    assert (clean.kind, clean.width, clean.height) == (kind.lower(), 60, 40)
    image = opened(clean.data)
    assert (image.format, image.size) == (kind, (60, 40))
    red, blue = (image.convert("RGB").getpixel((x, 20)) for x in (5, 55))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert (red[0] > 240, red[2] < 15, blue[0] < 15, blue[2] > 240) == (True,) * 4


@pytest.mark.parametrize("kind", [kind.upper() for kind in KINDS])
async def test_nothing_is_kept_but_the_picture(cleaner: Pictures, put: Put, kind: str) -> None:
    dirty = pictures.talkative(kind)
    assert pictures.SECRET in dirty, "the sample itself tells"
    clean = await cleaner.clean(put(dirty), "")
    assert pictures.SECRET not in clean.data
    for mark in (
        b"Exif",
        b"EXIF",
        b"eXIf",
        b"iCCP",
        b"ICCP",
        b"ICC_PROFILE",
        b"XMP ",
        b"xmp",
        b"tEXt",
        b"zTXt",
        b"iTXt",
    ):
        assert mark not in clean.data, mark
    image = opened(clean.data)
    image.load()
    assert not {"exif", "icc_profile", "comment", "xmp", "Comment", "photoshop"} & set(image.info)
    assert not image.getexif()


@pytest.mark.parametrize(("kind", "orientation"), [*(("JPEG", n) for n in range(1, 9)), ("PNG", 6), ("WEBP", 6)])
async def test_the_turn_that_was_asked_for_is_made_first(
    cleaner: Pictures, put: Put, kind: str, orientation: int
) -> None:
    clean = await cleaner.clean(put(pictures.talkative(kind, orientation)), "")
    is_upright = orientation < 5
    assert (clean.width, clean.height) == ((60, 40) if is_upright else (40, 60))
    first = opened(clean.data).convert("RGB").getpixel((2, 2))
    assert isinstance(first, tuple)
    assert ("red" if first[0] > 200 else "blue") == ("red" if orientation in (1, 4, 5, 6) else "blue")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
async def test_an_animation_goes_on_moving(cleaner: Pictures, put: Put, kind: str) -> None:
    clean = await cleaner.clean(put(pictures.animated(kind)), "")
    image = opened(clean.data)
    assert (image.format, image.n_frames, image.size) == (kind, 3, (20, 10))  # type: ignore[attr-defined]
    found = []
    for frame in range(3):
        image.seek(frame)
        image.load()
        found.append((image.convert("RGB").getpixel((5, 5)), image.info["duration"]))
    assert len({colour for colour, _ in found}) == 3
    assert {pace for _, pace in found} == {40}


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG")),
        *(("I;16", "PNG"), ("RGBA", "WEBP"), ("L", "GIF"), ("RGBA", "GIF")),
    ],
)
async def test_every_kind_of_pixel_is_taken(cleaner: Pictures, put: Put, mode: str, kind: str) -> None:
    image = pictures.scene(mode="L").convert(mode) if mode == "I;16" else pictures.scene(mode=mode)
    clean = await cleaner.clean(put(pictures.written(image, kind)), "")
    assert opened(clean.data).size == (60, 40)
    assert ("A" in mode) == opened(clean.data).has_transparency_data or kind != "PNG"


async def test_a_jpeg_keeps_its_quality(cleaner: Pictures, put: Put) -> None:
    for quality in (30, 95):
        given = pictures.written(pictures.scene(), "JPEG", quality=quality)
        clean = await cleaner.clean(put(given), "a.jpg")
        assert opened(clean.data).quantization == opened(given).quantization  # type: ignore[attr-defined]


PNG, JPEG, GIF, WEBP = (pictures.plain(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP"))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("content", "name", "error", "reason"),
    [
        (b"", "a.png", Invalid, "empty"),
        (b"text", "a.png", Unsupported, "no picture"),
        (bytes(100), "a.png", Unsupported, "no picture"),
        (SVG, "a.svg", Unsupported, "SVG"),
        (SVG, "a.png", Unsupported, "SVG"),
        (b'<?xml version="1.0"?>\n<!-- x -->' + SVG, "", Unsupported, "SVG"),
        (pictures.plain("TIFF"), "a.tiff", Unsupported, "TIFF"),
        (pictures.plain("BMP"), "a.bmp", Unsupported, "BMP"),
        (pictures.plain("ICO"), "a.ico", Unsupported, "icon"),
        (b"\0\0\0\x20ftypheic" + bytes(64), "a.heic", Unsupported, "HEIC"),
        (pdfs.book(1), "a.png", Unsupported, "PDF"),
        (b"\x7fELF" + bytes(64), "a.png", Unsupported, "program"),
        (b"<!doctype html><img>", "a.gif", Unsupported, "web page"),
        (pictures.with_archive(b""), "a.png", Unsupported, "ZIP"),
        (PNG, "a.jpg", Unsupported, "named .jpg but is a PNG"),
        (JPEG, "a.png", Unsupported, "named .png but is a JPEG"),
        (GIF, "a.txt", Unsupported, "named .txt but is a GIF"),
        (PNG, "a.svg", Unsupported, "named .svg but is a PNG"),
        (WEBP, "a.\u202egpj", Unsupported, "named otherwise but is a WebP"),
        (pictures.with_archive(JPEG), "a.jpg", Unsupported, "an archive at once"),
        (pictures.with_archive(PNG), "a.png", Unsupported, "an archive at once"),
        (JPEG[:2] + b"\xff\xfe\0\x0c%PDF-1.7\n/" + JPEG[2:], "a.jpg", Unsupported, "PDF at once"),
        (pictures.plain("GIF", comment=b"*/<ScRiPt>alert(1)</script>"), "a.gif", Unsupported, "script at once"),
        (PNG + b"<html >", "a.png", Unsupported, "web page or a script at once"),
        (PNG[:-20], "a.png", Invalid, "cut off"),
        (PNG[:33], "a.png", Invalid, "cut off"),
        (PNG.replace(PNG[45:49], b"\xde\xad\xbe\xef"), "a.png", Invalid, "broken"),
        (JPEG[: len(JPEG) // 2], "a.jpg", Invalid, "cut off"),
        (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "a.jpg", Invalid, "broken"),
        (JPEG[:-2], "a.jpg", Invalid, "cut off"),
        (b"\xff\xd8\xff\xd9", "a.jpg", Invalid, "broken"),
        (GIF[:-1], "a.gif", Invalid, "cut off"),
        (GIF[: len(GIF) // 2] + b";", "a.gif", Invalid, "broken"),
        (WEBP[:-8], "a.webp", Invalid, "cut off"),
        (b"RIFF\4\0\0\0WEBP", "a.webp", Invalid, "broken"),
        (b"GIF89a;", "a.gif", Invalid, "broken"),
        (PNG + bytes(MEBIBYTE), "a.png", TooLarge, "bytes"),
        (pictures.png(1001, 1000, b""), "a.png", TooLarge, "pixels"),
        (pictures.png(2**31 - 1, 2**31 - 1, b""), "a.png", TooLarge, "pixels"),
        (pictures.bomb(3_000), "a.png", TooLarge, "pixels"),
        (pictures.animated("GIF", 60, (200, 100)), "a.gif", TooLarge, "pixels"),
        (pictures.animated("WEBP", 60, (200, 100)), "a.webp", TooLarge, "pixels"),
        (pictures.many_frames(10_000), "a.gif", TooLarge, "10,000 frames"),
        (pictures.text_bomb(), "a.png", Invalid, "broken"),
    ],
)
async def test_a_file_that_cannot_be_kept_is_refused_with_the_reason(
    cleaner: Pictures, put: Put, content: bytes, name: str, error: type[Invalid], reason: str
) -> None:
    with pytest.raises(error) as caught:
        await cleaner.clean(put(content), name)
    assert type(caught.value) is error, caught.value.message
    assert reason in caught.value.message
    if error is Unsupported:
        assert "PNG, JPEG, WebP and GIF" in caught.value.message


async def test_a_frame_cannot_be_larger_than_its_picture_says(cleaner: Pictures, put: Put) -> None:
    image = bytearray(pictures.many_frames(2))
    frame = image.rindex(b"\x2c")
    image[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises((TooLarge, Invalid)):
        await cleaner.clean(put(bytes(image)), "a.gif")


async def test_what_lies_behind_the_end_is_left_behind(cleaner: Pictures, put: Put) -> None:
    for content in (PNG, JPEG):
        clean = await cleaner.clean(put(content + b"maker's trailer" + pictures.SECRET), "")
        assert pictures.SECRET not in clean.data
        assert b"trailer" not in clean.data


async def test_the_largest_that_is_taken_is_cleaned_within_its_bounds(put: Put) -> None:
    cleaner = picture_cleaner(max_bytes=32 * MEBIBYTE, max_pixels=16_000_000, seconds=60)
    for mode, kind in (("RGBA", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP")):
        given = pictures.written(pictures.scene(4_000, 4_000, mode), kind)
        assert (await cleaner.clean(put(given), "")).width == 4_000


async def test_a_cancelled_cleaning_leaves_no_process_behind(put: Put) -> None:
    cleaner = picture_cleaner(max_bytes=32 * MEBIBYTE, max_pixels=50_000_000, seconds=60)
    path = put(pictures.bomb(7_000))
    task = asyncio.create_task(cleaner.clean(path, "a.png"))
    ours = psutil.Process()
    async with asyncio.timeout(20):
        while not any("loquent.readers.child" in " ".join(each.cmdline()) for each in ours.children()):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any("loquent.readers.child" in " ".join(each.cmdline()) for each in ours.children())


async def test_a_picture_is_told_by_its_time_that_it_is_too_much(put: Put) -> None:
    cleaner = picture_cleaner(max_bytes=32 * MEBIBYTE, max_pixels=50_000_000, seconds=0.2)
    with pytest.raises(TooLarge, match=r"seconds|time"):
        await cleaner.clean(put(pictures.bomb(7_000)), "a.png")
