"""The parent's side of cleaning pictures: each is written anew in a limited child process."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from loquent.domain.errors import Unavailable
from loquent.ports.pictures import CleanPicture
from loquent.readers.kinds import ending
from loquent.readers.limited import Limited

MEBIBYTE = 1 << 20
EACH_PIXEL = 32  # bytes that the work on one pixel may need: copies of four bytes, and a lossless WebP's own


class PictureCleaner:
    """Cleans PNG, JPEG, WebP and GIF with Pillow. Never more than ``at_once`` at a time; the others wait their turn."""

    def __init__(self, *, max_bytes: int, max_pixels: int, seconds: float, at_once: int = 2) -> None:
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        memory = 256 * MEBIBYTE + 4 * max_bytes + EACH_PIXEL * max_pixels
        self._child = Limited(max_bytes=max_bytes, seconds=seconds, memory_bytes=memory, at_once=at_once)

    async def clean(self, path: Path, name: str) -> CleanPicture:
        """The picture in the file at ``path``; of ``name`` only the ending is used."""
        if find_spec("PIL") is None:
            raise Unavailable(
                "pictures cannot be read here: loquent[images] is not installed; `loquent doctor` says how"
            )
        asked = {"ending": ending(name), "max_pixels": self._max_pixels}
        told, data = await self._child.ask(path, asked, 2 * self._max_bytes)
        return CleanPicture(told["kind"], told["width"], told["height"], data)
