"""Blobs: uploaded files, kept whole under keys of our own making."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loquent.domain.clock import Moment


@dataclass(frozen=True, slots=True)
class Kept:
    """One blob as a listing shows it."""

    key: str
    size: int  # bytes
    kept_at: Moment


class Blobs(Protocol):
    """Where uploaded bytes live. Keys are ours: ``documents/doc_…``, lower case, digits, ``_`` and ``/``.

    Any other key raises Invalid.

    What always holds: a blob is there whole or not at all, and is durable when ``put`` returns; ``put`` under a key
    in use replaces it as a whole; ``get`` raises NotFound before its first byte where there is none; ``remove`` of
    what is not there does nothing. Every verb raises Unavailable where the backend is away or full, and nothing of
    a failed ``put`` is seen. The row is written after its blob, and removed before it: what is left behind by a
    crash is a blob without a row, which ``list`` finds and a sweep removes.
    """

    async def open(self) -> None:
        """Connect, or make the folder. Raises Misconfigured."""

    async def close(self) -> None:
        """Let go. May be called twice."""

    async def ready(self) -> None:
        """Answer quickly whether blobs can be written now; raises Unavailable where not."""

    async def put(self, key: str, path: Path) -> None:
        """Keep a copy of the file at ``path``."""

    def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """The bytes, piece by piece (64 KiB or so each). Closing it lets go of the blob."""
        ...

    async def remove(self, key: str) -> None:
        """Take it away."""

    def address(self, key: str) -> str:
        """Where it lies, as a URL (``file:///…``, ``s3://…``); not one that a stranger can open."""
        ...

    async def link(self, key: str, disposition: str) -> str | None:
        """A URL by which whoever has it downloads the blob for some minutes, with that Content-Disposition.

        None where this backend has no such thing. Nobody looks whether there is such a blob.
        """

    def list(self, *, until: Moment) -> AsyncIterator[Kept]:
        """Every blob that was kept at that moment or before, in no order."""
        ...
