"""Readers: what every one must do with good files, wrong files, broken files and bombs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from loquent.domain.errors import Invalid, TooLarge, Unsupported
from loquent.ports.reader import Reader
from loquent.readers import connect, pdf
from loquent.readers.pages import paragraphs
from samples import pdfs, words

pytestmark = pytest.mark.anyio

MEBIBYTE = 1 << 20
PROSE = "The harbour was built early. Its café is naïve – “so it is said”.\nA second line.\n"


@pytest.fixture
def reader() -> Reader:
    return connect(max_bytes=8 * MEBIBYTE, max_characters=2_000_000, seconds=30, memory_bytes=512 * MEBIBYTE)


@pytest.fixture
def impatient() -> Reader:
    return connect(max_bytes=8 * MEBIBYTE, max_characters=2_000_000, seconds=3, memory_bytes=400 * MEBIBYTE)


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    def put(content: bytes) -> Path:
        path = tmp_path / "blob"
        path.write_bytes(content)
        return path

    return put


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (PROSE.encode(), "a.txt", "txt"),
        (PROSE.encode(), "A.TXT", "txt"),
        (PROSE.encode(), "no ending", "txt"),
        (PROSE.encode(), "../../etc/passwd\0.md", "md"),
        (PROSE.encode("utf-8-sig"), "a.md", "md"),
        (PROSE.encode("utf-16"), "a.txt", "txt"),
        (PROSE.encode("utf-16-le"), "a.txt", "txt"),
        (PROSE.encode("utf-16-be"), "a.txt", "txt"),
        (PROSE.encode("utf-32"), "a.txt", "txt"),
        (PROSE.encode("cp1252"), "a.txt", "txt"),
        (PROSE.replace("\n", "\r\n").encode(), "a.txt", "txt"),
    ],
)
async def test_a_text_is_read_whatever_its_encoding(
    reader: Reader, put: Callable[[bytes], Path], content: bytes, name: str, kind: str
) -> None:
    read = await reader.read(put(content), name)
    assert (read.text, read.kind, read.pages) == (PROSE, kind, None)


async def test_other_scripts_are_read_from_utf8(reader: Reader, put: Callable[[bytes], Path]) -> None:
    text = "Это книга о порте. これは本です。 هذا كتاب. 👩‍🚀"
    assert (await reader.read(put(text.encode()), "a.txt")).text == text


async def test_a_book_of_fifty_pages_is_read_right(reader: Reader, put: Callable[[bytes], Path]) -> None:
    read = await reader.read(put(pdfs.book(50)), "book.pdf")
    assert (read.kind, read.pages) == ("pdf", 50)
    assert all(f"On page {page} of this book" in read.text for page in range(1, 51))
    assert read.text.count("The History of the Harbour") == 1  # the title; the running heads are gone
    assert "Page 7" not in read.text
    assert "still remember well." in read.text
    assert all(line in " ".join(read.text.split()) for line in pdfs.PROSE)


async def test_a_word_document_keeps_headings_lists_and_tables(reader: Reader, put: Callable[[bytes], Path]) -> None:
    read = await reader.read(put(words.report()), "report.docx")
    assert read.kind == "docx"
    assert read.text == (
        "Report on the Harbour\n\nThe harbour was built before anybody kept records.\n\nTrade\n\n"
        "Fishermen brought their catch.\tIt was sold.\n\n- first item\n- second item\n\n"
        "Year | Ships\n1900 | 312\n\nAfter the table."
    )


async def test_a_word_document_is_read_as_its_reader_sees_it(reader: Reader, put: Callable[[bytes], Path]) -> None:
    read = await reader.read(put(words.revised()), "revised.docx")
    assert read.text == "Kept, added and linked.\n\nControlled.\n\nIn a box."


@pytest.mark.parametrize(
    ("content", "name", "error", "reason"),
    [
        (b"", "a.txt", Invalid, "empty"),
        (b"", "a.pdf", Invalid, "empty"),
        (b" \n\t\n", "a.txt", Invalid, "no text"),
        (words.document(""), "a.docx", Invalid, "no text"),
        (pdfs.scan(), "a.pdf", Invalid, "OCR"),
        (pdfs.encrypted("secret"), "a.pdf", Invalid, "encrypted"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "a.docx", Invalid, "encrypted"),
        (b"text\0with zeros\0in it", "a.txt", Invalid, "not text"),
        (bytes(range(256)) * 9, "a.txt", Invalid, "encoding"),
        ("Съешь ещё этих мягких булок".encode("cp1251"), "a.txt", Invalid, "save it as UTF-8"),
        ("吾輩は猫である。名前はまだ無い。".encode("shift_jis"), "a.txt", Invalid, "save it as UTF-8"),
        ("Déjà vu, naïveté, Ænima".encode() + b"\xc3", "a.txt", Invalid, "not UTF-8 at byte"),
        (PROSE.encode("utf-16")[:-1], "a.txt", Invalid, "broken"),
        (b"%PDF-1.7\nnothing more", "a.pdf", Invalid, "broken"),
        (pdfs.book(3)[:900], "a.pdf", Invalid, ""),
        (words.report()[:3000], "a.docx", Invalid, "broken"),
        (words.document("<w:p>"), "a.docx", Invalid, "broken"),
        (pdfs.book(1), "a.txt", Unsupported, "named .txt but is PDF"),
        (words.report(), "a.pdf", Unsupported, "named .pdf but is a Word document"),
        (PROSE.encode(), "a.docx", Unsupported, "named .docx but is text"),
        (PROSE.encode(), "a.html", Unsupported, ".html"),
        (b"<!DOCTYPE html><p>x", "a.txt", Unsupported, "web page"),
        (b"{\\rtf1 text}", "a.txt", Unsupported, "RTF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "no ending", Unsupported, "PNG"),
        (b"\x7fELF" + bytes(64), "a.txt", Unsupported, "program"),
        (b"MZ\x90\0" + bytes(64), "a.pdf", Unsupported, "program"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), "a.docx", Unsupported, "save it as .docx"),
        (words.package({"xl/workbook.xml": "<x/>"}), "a.docx", Unsupported, "Excel"),
        (words.package({"META-INF/manifest.xml": "<x/>"}), "a.docx", Unsupported, "OpenDocument"),
        (words.package({"a": "b"}), "no ending", Unsupported, "ZIP"),
        (b"x" * (8 * MEBIBYTE + 1), "a.txt", TooLarge, "bytes"),
        (b"word " * 400_001, "a.txt", TooLarge, "characters"),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    reader: Reader, put: Callable[[bytes], Path], content: bytes, name: str, error: type[Invalid], reason: str
) -> None:
    with pytest.raises(error) as caught:
        await reader.read(put(content), name)
    assert type(caught.value) is error
    assert reason in caught.value.message
    if error is Unsupported:
        assert all(each in caught.value.message for each in reader.kinds)


@pytest.mark.parametrize(
    ("bomb", "name"),
    [
        (pdfs.swollen, "a.pdf"),
        (pdfs.busy, "a.pdf"),
        (pdfs.deep, "a.pdf"),
        (pdfs.endless, "a.pdf"),
        (pdfs.crowded, "a.pdf"),
        (words.laughs, "a.docx"),
        (words.swollen, "a.docx"),
        (words.lying, "a.docx"),
        (words.deep, "a.docx"),
    ],
)
async def test_a_bomb_does_not_go_off(
    impatient: Reader, put: Callable[[bytes], Path], bomb: Callable[[], bytes], name: str
) -> None:
    path = put(bomb())
    with pytest.raises(Invalid):
        await impatient.read(path, name)
    assert not children()


async def test_cancelling_ends_the_child(reader: Reader, put: Callable[[bytes], Path]) -> None:
    reading = asyncio.create_task(reader.read(put(pdfs.busy()), "a.pdf"))
    for _ in range(3000):
        if children():
            break
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not children()


async def test_many_files_at_once_wait_their_turn(put: Callable[[bytes], Path]) -> None:
    reader = connect(at_once=2)
    path = put(PROSE.encode())
    reads = await asyncio.gather(*(reader.read(path, "a.txt") for _ in range(8)))
    assert {read.text for read in reads} == {PROSE}


async def test_a_file_that_is_not_there_is_invalid(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be opened"):
        await reader.read(tmp_path / "nothing", "a.txt")


def test_the_child_writes_starts_and_reaches_nothing(tmp_path: Path) -> None:
    tried = """
import os, socket, subprocess, sys
from loquent.readers import child
child.limit(20, 1 << 29)
sys.addaudithook(child.guard)
for attempt in (
    lambda: open("written", "w"),
    lambda: os.open("written", os.O_CREAT | os.O_WRONLY),
    lambda: os.remove("kept"),
    lambda: socket.socket(),
    lambda: subprocess.run(["true"]),
    lambda: os.system("true"),
    lambda: os.fork(),
):
    try:
        attempt()
    except PermissionError:
        print("refused")
try:
    bytearray(1 << 30)
except MemoryError:
    print("refused")
"""
    (tmp_path / "kept").touch()
    done = subprocess.run(
        [sys.executable, "-c", tried], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["refused"] * 8
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_a_pdf_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    path = tmp_path / "a.pdf"
    path.write_bytes(pdfs.book(1))
    with path.open("rb") as file, pytest.raises(Unsupported, match=r"loquent\[documents\]"):
        pdf.text_of(file, 1000)


def test_hyphens_of_compounds_stay_and_those_of_line_ends_go() -> None:
    page = (
        "It is a well-known fact that the harbour is old, and that its stones are many and well-\n"
        "known to all who live there, as are the people of the town who were once so very impor-\n"
        "tant."
    )
    assert paragraphs([page]).endswith(
        "well-known to all who live there, as are the people of the town who were once so very important."
    )


READING = "loquent.readers.child"


def children() -> list[psutil.Process]:
    """Reading children of this process that still run."""
    return [
        each
        for each in psutil.Process().children(recursive=True)
        if each.is_running() and each.status() != psutil.STATUS_ZOMBIE and READING in _words(each)
    ]


def _words(process: psutil.Process) -> list[str]:
    """What it was started with; nothing where it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
