"""Word documents: paragraphs, headings, lists, tables and notes, streamed out of their XML.

Read by the standard library alone: it is ten times quicker to start than python-docx, never holds the document as a
tree, keeps text that stands in content controls, text boxes and accepted insertions, and leaves out what was deleted.
Nothing outside the text's own parts is opened; a document type declaration, where entity bombs live, is refused.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO
from xml.parsers import expat

from loquent.domain.errors import Invalid, TooLarge

DEPTH = 400  # elements in each other; real documents have some thirty
RATIO = 400  # times that a part may grow on unpacking, over a first mebibyte
_MEBIBYTE = 1 << 20
_MAIN = re.compile(r"word/document\d*\.xml")
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")
_LEFT_OUT = frozenset(("del", "moveFrom", "Fallback", "instrText", "delText"))
_MARKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
BROKEN = "the Word document is broken or cut off"


def text_of(file: BinaryIO, max_characters: int, max_unpacked: int) -> str:
    """The document's text: paragraphs apart by an empty line, a table's row or a list's item on a line each."""
    try:
        with zipfile.ZipFile(file) as archive:
            main = [name for name in archive.namelist() if _MAIN.fullmatch(name)][:1]
            notes = [name for name in _NOTES if name in archive.NameToInfo]
            words = _Words(max_characters)
            for name in main + notes:
                _read(archive, name, words, max_unpacked)
            return words.text()
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, NotImplementedError, KeyError) as fault:
        raise Invalid(BROKEN, field="file") from fault


def _read(archive: zipfile.ZipFile, name: str, words: _Words, max_unpacked: int) -> None:
    """One part, bounded by what it says of its size and by what it really has."""
    part = archive.getinfo(name)
    if part.flag_bits & 1:
        raise Invalid("the document is encrypted: save it without a password", field="file")
    if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Invalid(BROKEN, field="file")
    bound = min(max_unpacked, _MEBIBYTE + RATIO * part.compress_size)
    if part.file_size > bound:
        raise TooLarge(f"the Word document unpacks to more than {bound // _MEBIBYTE} MiB", field="file")
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = words.open
    parser.EndElementHandler = words.close
    parser.CharacterDataHandler = words.say
    parser.StartDoctypeDeclHandler = _refuse
    with archive.open(part) as stream:
        while data := stream.read(_MEBIBYTE // 4):  # zipfile itself stops at the size that the part says it has
            parser.Parse(data, False)
        parser.Parse(b"", True)


def _refuse(*_: object) -> None:
    raise Invalid("the Word document declares a document type, which none does: it is not read", field="file")


class _Words:
    """What the parser tells, as text: it keeps the paragraph, the cells and the row that are open."""

    def __init__(self, max_characters: int) -> None:
        self._left = max_characters
        self._blocks: list[str] = []
        self._kinds: list[str] = []  # of each block: paragraph, item, row
        self._paragraphs: list[list[str]] = []  # open ones; a text box stands inside a paragraph
        self._rows: list[list[list[str]]] = []  # open rows: their cells: the paragraphs in each
        self._depth = self._silent = 0
        self._in_text = self._is_item = False

    def open(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEPTH:
            raise Invalid("the Word document is nested too deeply to be real", field="file")
        space, _, local = name.rpartition(" ")
        if self._silent or local in _LEFT_OUT:
            self._silent += 1
        elif "wordprocessingml" in space and (start := _STARTS.get(local)):
            start(self)
        elif local in _MARKS and "wordprocessingml" in space and self._paragraphs:
            self._paragraphs[-1].append(_MARKS[local])
        elif local == "pStyle" and attributes.get(f"{space} val", "").startswith("List"):
            self._mark_item()

    def close(self, name: str) -> None:
        self._depth -= 1
        space, _, local = name.rpartition(" ")
        if self._silent:
            self._silent -= 1
        elif "wordprocessingml" in space and (end := _ENDS.get(local)):
            end(self)

    def say(self, text: str) -> None:
        if not self._in_text or self._silent or not self._paragraphs:
            return
        self._left -= len(text)
        if self._left < 0:
            raise TooLarge("the text of the file is longer than is taken", field="file")
        self._paragraphs[-1].append(text)

    def text(self) -> str:
        """All of it."""
        parts: list[str] = []
        before = ""
        for kind, block in zip(self._kinds, self._blocks, strict=True):
            if before:
                parts.append("\n" if kind == before != "paragraph" else "\n\n")
            parts.append(block)
            before = kind
        return "".join(parts)

    def _begin_paragraph(self) -> None:
        self._paragraphs.append([])
        self._is_item = False

    def _end_paragraph(self) -> None:
        text = "".join(self._paragraphs.pop()).strip() if self._paragraphs else ""
        if not text:
            return
        if self._rows and self._rows[-1]:
            self._rows[-1][-1].append(" ".join(text.split()))
        else:
            self._add("item" if self._is_item else "paragraph", f"- {text}" if self._is_item else text)

    def _end_row(self) -> None:
        cells = [" ".join(cell) for cell in self._rows.pop()] if self._rows else []
        if not any(cells):
            return
        if self._rows and self._rows[-1]:  # a table in a cell
            self._rows[-1][-1].append(" ".join(filter(None, cells)))
        else:
            self._add("row", " | ".join(cells))

    def _add(self, kind: str, block: str) -> None:
        self._kinds.append(kind)
        self._blocks.append(block)

    def _begin_cell(self) -> None:
        if self._rows:
            self._rows[-1].append([])

    def _begin_row(self) -> None:
        self._rows.append([])

    def _begin_text(self) -> None:
        self._in_text = True

    def _end_text(self) -> None:
        self._in_text = False

    def _mark_item(self) -> None:
        self._is_item = True


_STARTS: dict[str, Callable[[_Words], None]] = {
    "p": _Words._begin_paragraph,
    "t": _Words._begin_text,
    "tr": _Words._begin_row,
    "tc": _Words._begin_cell,
    "numPr": _Words._mark_item,
}
_ENDS: dict[str, Callable[[_Words], None]] = {
    "p": _Words._end_paragraph,
    "t": _Words._end_text,
    "tr": _Words._end_row,
}
