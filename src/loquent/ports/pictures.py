"""Pictures: what makes an uploaded picture that nobody trusts into one that can be kept and shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CleanPicture:
    """A picture as it may be kept: written anew from its pixels alone. ``kind`` is one of images.KINDS."""

    kind: str
    width: int  # pixels, as it is shown: a turn that its metadata asked for is made
    height: int
    data: bytes


class Pictures(Protocol):
    """Makes uploaded pictures clean, away from the server's own process.

    What always holds: the kind is told by content, and a name that says otherwise raises Unsupported, as does any
    other kind and a file that is a picture and something else at once; bytes, pixels (told by the header, before
    anything is unpacked), frames, memory and time are bounded (TooLarge); a broken or cut file raises Invalid with a
    reason that a person can act on. What comes back is of the same kind, with its frames, and without metadata:
    no EXIF, XMP, comments, profiles, previews, nor anything behind its end. Cancelling ends the work at once.
    Raises Unavailable where what it takes is not installed.
    """

    async def clean(self, path: Path, name: str) -> CleanPicture:
        """The picture in the file at ``path`` that its sender calls ``name``."""
        ...
