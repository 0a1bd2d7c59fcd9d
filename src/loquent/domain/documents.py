"""A document: a file that somebody uploaded, and the text that was read in it."""

from __future__ import annotations

from loquent.domain.clock import Moment
from loquent.domain.fixed import fixed

PREFIX = "doc"


@fixed
class Document:
    """An uploaded file. The original is a blob (see ``blob``), the text a record of its own (DocumentText)."""

    id: str
    version: int
    tenant: str
    owner: str
    surface: str
    name: str  # as its sender called it; never part of a path
    kind: str  # what it really is: txt, md, pdf, docx
    media_type: str
    size: int  # bytes
    sha256: str
    characters: int  # of the text
    pages: int | None
    created_at: Moment

    @property
    def blob(self) -> str:
        """The key of the original."""
        return blob_of(self.id)


@fixed
class DocumentText:
    """The text of a document, under its id; a record of its own so that lists never carry it."""

    id: str
    version: int
    tenant: str
    owner: str
    text: str


def blob_of(id: str) -> str:
    """The key under which the original of that document is kept: made of the id, so that a sweep finds its record."""
    return f"documents/{id}"


def asking(wish: str, text: str, *, whole: bool = True) -> str:
    """What a chat model is asked about a document."""
    what = "the document" if whole else "these notes on the parts of one document"
    return f"{wish}\n\nAnswer from {what} below alone; where nothing is said of it there, say so.\n\n{text}"


def noting(wish: str, part: str) -> str:
    """What a chat model is asked about a part of a document that does not fit as a whole."""
    return (
        f"Below is a part of a document. Note in a few sentences what it says that bears on this: {wish}\n\n"
        f"Keep names and numbers as they are. Answer with the notes alone.\n\n{part}"
    )
