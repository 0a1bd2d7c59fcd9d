"""The parent's side of reading: each file's text is read in a limited child process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loquent.ports.reader import ReadText
from loquent.readers.kinds import KINDS, check_ending
from loquent.readers.limited import Limited


class FileReader:
    """Reads .txt, .md, .pdf and .docx. Never more than ``at_once`` files at a time; the others wait their turn."""

    kinds: Mapping[str, str] = KINDS

    def __init__(
        self, *, max_bytes: int, max_characters: int, seconds: float, memory_bytes: int, at_once: int = 2
    ) -> None:
        self._max_characters = max_characters
        self._child = Limited(max_bytes=max_bytes, seconds=seconds, memory_bytes=memory_bytes, at_once=at_once)

    async def read(self, path: Path, name: str) -> ReadText:
        """The text of the file at ``path``; of ``name`` only the ending is used."""
        asked = {"ending": check_ending(name), "max_characters": self._max_characters}
        told, text = await self._child.ask(path, asked, 4 * self._max_characters)
        return ReadText(text.decode(), told["kind"], told["pages"])
