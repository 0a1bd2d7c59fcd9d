"""Pictures for llama.cpp, looked at before native code reads them: their kind, and how large they unfold.

It takes what it does not know for a film, and a small file may claim a billion pixels; so both are checked here.
Sources: https://www.w3.org/TR/png-3/#11IHDR, https://www.w3.org/Graphics/GIF/spec-gif89a.txt,
https://www.w3.org/Graphics/JPEG/itu-t81.pdf (B.2.2)
"""

from __future__ import annotations

import base64
import struct

from loquent.domain.errors import Invalid, TooLarge
from loquent.domain.requests import Picture

MOST = 40_000_000  # pixels
PNG, GIFS, JPEG = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a"), b"\xff\xd8"
NO_SIZE = frozenset((0xC4, 0xC8, 0xCC))  # JPEG: tables among the frame headers
BARE = frozenset((0x01, *range(0xD0, 0xDA)))  # JPEG: markers with nothing after them


def data_url(picture: Picture) -> str:
    """The picture as llama.cpp takes it. Raises Invalid."""
    try:
        kind, (width, height) = _look(picture.data)
    except (struct.error, IndexError) as short:
        raise Invalid("the picture is cut off", field="messages") from short
    if not 0 < width * height <= MOST:
        raise TooLarge(f"the picture has {width} x {height} pixels; at most {MOST} are looked at", field="messages")
    return f"data:{kind};base64,{base64.b64encode(picture.data).decode('ascii')}"


def _look(data: bytes) -> tuple[str, tuple[int, int]]:
    if data.startswith(PNG):
        return "image/png", struct.unpack(">II", data[16:24])
    if data.startswith(GIFS):
        return "image/gif", struct.unpack("<HH", data[6:10])
    if data.startswith(JPEG):
        return "image/jpeg", _jpeg(data)
    raise Invalid("this model looks at PNG, JPEG and GIF pictures", field="messages")


def _jpeg(data: bytes) -> tuple[int, int]:
    """The size in the frame header, which comes after other segments."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise Invalid("the picture is not a sound JPEG", field="messages")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in BARE:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in NO_SIZE:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        else:
            at += 2 + max(2, struct.unpack(">H", data[at + 2 : at + 4])[0])
