"""What a file really is, told by what is in it, and whether that is what its name says."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import BinaryIO

from loquent.domain.errors import Invalid, Unsupported

KINDS: Mapping[str, str] = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
"""Each file ending that is taken, with its media type."""

TEXT, PDF, DOCX = "text", "PDF", "a Word document (.docx)"
_SAYS = {".txt": TEXT, ".md": TEXT, ".pdf": PDF, ".docx": DOCX, "": None}

_HEAD = 1024  # bytes within which a PDF must say that it is one
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_FOREIGN = (
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff\xe0", "a JPEG image"),
    (b"\xff\xd8\xff\xe1", "a JPEG image"),
    (b"\xff\xd8\xff\xdb", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"RIFF", "a picture, sound or film"),
    (b"ID3", "a sound"),
    (b"OggS", "a sound"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"Rar!", "a RAR archive"),
    (b"SQLite format 3", "a database"),
    (b"%!PS", "PostScript"),
    (b"<!doctype html", "a web page (HTML)"),
    (b"<html", "a web page (HTML)"),
)
_PACKED = (
    ("xl/", "an Excel workbook"),
    ("ppt/", "a PowerPoint presentation"),
    ("META-INF/manifest.xml", "an OpenDocument file"),
    ("META-INF/container.xml", "an e-book (EPUB)"),
)


def ending(name: str) -> str:
    """The ending of a file's name, small: ``.pdf``, or nothing. The rest of the name is used for nothing."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "." + last.rpartition(".")[2].lower() if "." in last[1:] else ""


def check_ending(name: str) -> str:
    """The ending, if files named so are taken; no ending says nothing. Raises Unsupported."""
    said = ending(name)
    if said not in _SAYS:
        shown = said if said.isprintable() and len(said) <= 12 else "this ending"
        raise Unsupported(f"files with {shown} are not read; {_taken()}", field="file")
    return said


def tell(file: BinaryIO, said: str) -> str:
    """TEXT, PDF or DOCX, by content. Raises Unsupported for anything else, and where the name said otherwise."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise Invalid("the file is empty", field="file")
    found = _kind(file, head, said)
    if _SAYS[said] not in (None, found):
        raise Unsupported(f"the file is named {said} but is {found}; {_taken()}", field="file")
    if found not in (TEXT, PDF, DOCX):
        raise Unsupported(f"the file is {found}; {_taken()}", field="file")
    return found


def _kind(file: BinaryIO, head: bytes, said: str) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64]
    if start.startswith(b"%PDF-") or (said == ".pdf" and b"%PDF-" in head):
        return PDF
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _packed(file)
    if head.startswith(_OLD_OFFICE):
        if _ENCRYPTED in file.read():
            raise Invalid("the document is encrypted: save it without a password", field="file")
        return "an old Office file (.doc, .xls or .ppt): save it as .docx"
    return foreign(head) or TEXT


def foreign(head: bytes) -> str | None:
    """What a file with this beginning is, where it is none that is read here; None where nothing says so."""
    small = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    for mark, name in _FOREIGN:
        if (small if mark[:1] == b"<" else head).startswith(mark) and (len(mark) > 3 or b"\0" in head):
            return name  # a mark as short as a word counts only where zeros stand near it
    return None


def _packed(file: BinaryIO) -> str:
    """What lies in a ZIP."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as fault:
        raise Invalid("the file begins like a Word document but is broken or cut off", field="file") from fault
    finally:
        file.seek(0)
    if any(name.startswith("word/document") and name.endswith(".xml") for name in names):
        return DOCX
    for start, found in _PACKED:
        if any(name.startswith(start) for name in names):
            return found
    return "a ZIP archive"


def _taken() -> str:
    return f"taken are {', '.join(KINDS)}"
