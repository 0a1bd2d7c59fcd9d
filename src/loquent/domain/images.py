"""An image: a picture that somebody uploaded, kept without its metadata."""

from __future__ import annotations

from loquent.domain.clock import Moment
from loquent.domain.fixed import fixed

PREFIX = "img"
PROMPT = "Say what is in this picture. Where there are words in it, say what they are."
"""What is asked where a caller asks nothing of their own."""
KINDS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif"}


@fixed
class Image:
    """An uploaded picture; what is kept of it is a blob (see ``blob``)."""

    id: str
    version: int
    tenant: str
    owner: str
    surface: str
    name: str  # as its sender called it; never part of a path
    kind: str  # one of KINDS
    media_type: str
    size: int  # bytes of what is kept
    sha256: str  # of what is kept
    width: int  # pixels
    height: int
    created_at: Moment

    @property
    def blob(self) -> str:
        """The key of what is kept."""
        return blob_of(self.id)


def blob_of(id: str) -> str:
    """The key under which that image is kept: made of the id, so that a sweep finds its record."""
    return f"images/{id}"
