"""Faults of the world around us, made on purpose and mended again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """A link to nowhere stands in the folder's place."""
    aside = folder.rename(folder.with_name("aside"))
    folder.symlink_to("nowhere")
    yield
    folder.unlink()
    aside.rename(folder)
