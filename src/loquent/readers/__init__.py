"""What reads uploaded files in a limited child process: texts (.txt, .md, .pdf, .docx), and pictures to be cleaned."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the child imports this package too, and starts sooner without
    from loquent.ports.pictures import Pictures
    from loquent.ports.reader import Reader

MEBIBYTE = 1 << 20


def connect(
    *,
    max_bytes: int = 32 * MEBIBYTE,
    max_characters: int = 10_000_000,
    seconds: float = 60.0,
    memory_bytes: int = 768 * MEBIBYTE,
    at_once: int = 2,
) -> Reader:
    """The reader of files within these limits: of the file, of its text, and of the child that reads it."""
    from loquent.readers.files import FileReader

    return FileReader(
        max_bytes=max_bytes,
        max_characters=max_characters,
        seconds=seconds,
        memory_bytes=memory_bytes,
        at_once=at_once,
    )


def picture_cleaner(
    *, max_bytes: int = 32 * MEBIBYTE, max_pixels: int = 50_000_000, seconds: float = 60.0, at_once: int = 2
) -> Pictures:
    """What cleans pictures within these limits: of the file, of its pixels, and of the time that it may take."""
    from loquent.readers.pictures import PictureCleaner

    return PictureCleaner(max_bytes=max_bytes, max_pixels=max_pixels, seconds=seconds, at_once=at_once)
