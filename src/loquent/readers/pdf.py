"""PDF: the lines of each page, as pypdf finds them, put together to paragraphs."""

from __future__ import annotations

import logging
from typing import BinaryIO

from loquent.domain.errors import Invalid, LoquentError, TooLarge, Unsupported
from loquent.readers.pages import paragraphs


def text_of(file: BinaryIO, max_characters: int) -> tuple[str, int]:
    """The text and the number of pages. Raises Invalid where it is encrypted, broken, or a picture of text."""
    try:
        import pypdf
        from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError
    except ImportError as missing:
        raise Unsupported(
            "PDF files cannot be read here: loquent[documents] is not installed; `loquent doctor` says how",
            field="file",
        ) from missing

    logging.disable()  # its warnings would quote the file
    try:
        reader = pypdf.PdfReader(file, strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Invalid("the PDF is encrypted: save it without a password", field="file")
        pages = _pages(reader, max_characters)
    except (LoquentError, MemoryError):
        raise
    except (DependencyError, FileNotDecryptedError) as fault:
        raise Invalid("the PDF is encrypted: save it without a password", field="file") from fault
    except LimitReachedError as fault:
        raise TooLarge("the PDF unpacks to more than is taken", field="file") from fault
    except RecursionError as fault:
        raise Invalid("the PDF is nested too deeply to be real", field="file") from fault
    except Exception as fault:  # a broken PDF makes pypdf raise nearly anything
        raise Invalid("the PDF is broken or cut off", field="file") from fault
    if not pages:
        raise Invalid("the PDF has no pages", field="file")
    text = paragraphs(pages)
    if not text.strip():
        raise Invalid("the PDF has no text in it, only pictures: a scan needs text recognition (OCR)", field="file")
    return text, len(pages)


def _pages(reader: "pypdf.PdfReader", max_characters: int) -> list[str]:  # type: ignore[name-defined]  # noqa: F821, UP037
    """Each page's text, as long as there is room."""
    pages: list[str] = []
    left = max_characters
    for page in reader.pages:
        text = page.extract_text()
        left -= len(text)
        if left < 0:
            raise TooLarge("the text of the file is longer than is taken", field="file")
        pages.append(text)
    return pages
