"""Pictures within a JSON body: data URLs, checked by the bytes that they hold. No address is ever fetched."""

from __future__ import annotations

import base64
import binascii
import re

from loquent.domain.errors import Invalid, TooLarge

LARGEST = 10_000_000  # bytes of one picture; the body's bound may be the nearer one
DATA_URL = re.compile(r"data:image/(png|jpe?g|webp|gif);base64,", re.IGNORECASE)
TAKES = "a picture comes as a data URL: data:image/png;base64,… (or jpeg, webp, gif); no other URL is fetched"


def stored_picture(url: str, field: str) -> dict[str, str]:
    """The picture of a data URL, as a message keeps it. Raises Invalid or TooLarge, naming the field."""
    begins = DATA_URL.match(url)
    if begins is None:
        raise Invalid(f"{field}: {TAKES}", field=field)
    data = url[begins.end() :]
    if len(data) * 3 // 4 > LARGEST:
        raise TooLarge(f"{field}: a picture takes at most {LARGEST} bytes", field=field)
    try:
        found = kind_of(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        raise Invalid(f"{field}: what the data URL holds is not base64", field=field) from None
    said = begins[1].lower().replace("jpg", "jpeg")
    if found != said:
        raise Invalid(f"{field}: the data URL says {said}, but what it holds is {found or 'no picture'}", field=field)
    return {"media_type": f"image/{said}", "data": data}


def kind_of(data: bytes) -> str | None:
    """What a picture is, by how it begins; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return None
