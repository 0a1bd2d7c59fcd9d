"""A reader: what turns a file into text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ReadText:
    """The text of a file. ``kind`` is what it really was: txt, md, pdf, docx."""

    text: str
    kind: str
    pages: int | None = None


class Reader(Protocol):
    """Turns a file that nobody trusts into text, away from the server's own process.

    What always holds: the kind is told by content, and a name that says otherwise raises Unsupported; nothing is
    fetched, run or written; memory, time and the length of the text are bounded (TooLarge); a broken or encrypted
    file, or one with no text in it, raises Invalid with a reason that a person can act on. The text has no NUL and no
    lone surrogates. Cancelling ends the child at once.
    """

    kinds: Mapping[str, str]
    """Each file ending that is taken, with its media type."""

    async def read(self, path: Path, name: str) -> ReadText:
        """The text of the file at ``path`` that its sender calls ``name``."""
        ...
