"""Pictures for the tests, good and bad, made when they are asked for."""

from __future__ import annotations

import base64
import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageCms, ImageDraw, ImageFont, PngImagePlugin

from samples.swelling import packed

SECRET = b"51.5007N 0.1246W"  # what must not be kept: in every kind of metadata that there is
LINES = ("The harbour of the old town", "was built before anybody", "kept records in 1847.")


def scene(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """Red to the left, blue to the right, so that a turn is seen."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image.convert(mode)


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture as a file of that kind."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def plain(kind: str, **options: Any) -> bytes:
    """A good little picture of that kind."""
    return written(scene(), kind, **options)


def text(lines: Sequence[str] = LINES) -> bytes:
    """Black words on white."""
    image = Image.new("RGB", (640, 40 + 80 * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((20, 20 + 80 * number), line, fill="black", font=ImageFont.load_default(36))
    return written(image, "PNG")


def blank() -> bytes:
    """Nothing at all, in white."""
    return written(Image.new("RGB", (300, 200), "white"), "PNG")


def exif(orientation: int = 1) -> Image.Exif:
    """EXIF with a place, a camera and a turn."""
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010F] = SECRET.decode()  # make
    found.get_ifd(0x8825)[1] = SECRET.decode()  # GPS
    return found


def talkative(kind: str, orientation: int = 1) -> bytes:
    """A picture that carries the secret in every way that its kind has."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + SECRET
    xmp = b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"
    if kind == "GIF":
        return written(scene(mode="P"), kind, comment=SECRET)
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("Comment", SECRET.decode())
        chunks.add_text("Place", SECRET.decode(), zip=True)
        chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return written(scene(), kind, pnginfo=chunks, exif=exif(orientation), icc_profile=profile)
    more = {"comment": SECRET} if kind == "JPEG" else {"lossless": True}
    return written(scene(), kind, exif=exif(orientation), icc_profile=profile, xmp=xmp, **more)


def animated(kind: str, frames: int = 3, size: tuple[int, int] = (20, 10)) -> bytes:
    """That many frames, each of another colour."""
    colours = [(255 * (n % 2), n * 40 % 256, n // 6 % 256) for n in range(frames)]
    images = [Image.new("RGB", size, colour) for colour in colours]
    return written(images[0], kind, save_all=True, append_images=images[1:], duration=40, loop=0)


def many_frames(frames: int) -> bytes:
    """A GIF of so many frames of one pixel, from a few bytes each."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = (
        b"\x21\xf9\x04\x00\x01\x00\x00\x00" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    )
    return head + frame * frames + b";"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    """A PNG that says what size it has, whatever is in it."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """A PNG of that many grey pixels squared, which are all there, in some kilobytes."""
    return png(side, side, packed(bytes(side + 1), side))


def text_bomb() -> bytes:
    """A PNG with 200 MB of comment in 200 KB."""
    comment = packed(bytes(1_000_000), 200)
    return png(1, 1, zlib.compress(b"\0\0"), _chunk(b"zTXt", b"Comment\0\0" + comment))


def with_archive(picture: bytes) -> bytes:
    """A picture that is a ZIP, too."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("evil.txt", "text")
    return picture + out.getvalue()


def base64_of(data: bytes) -> str:
    """As data URLs and predictors have it."""
    return base64.b64encode(data).decode("ascii")


def opened(data: bytes) -> Image.Image:
    """The picture that these bytes are."""
    return Image.open(io.BytesIO(data))
