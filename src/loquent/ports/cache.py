"""The cache: bytes that are kept for a while under a key, and may be gone at any time."""

from __future__ import annotations

from typing import Protocol


class Cache(Protocol):
    """Keeps what is put, until its time is over, room is needed or it is dropped; then it is as if it had never been.

    A value comes back whole and as it was put, or not at all. Every call but ``open`` and ``close`` ends within a tenth
    of a second; it raises Unavailable where the backend is away, slow or full, and works again by itself as soon as
    the backend does. Where another process drops a key, it may be found here for one second more.
    """

    async def open(self) -> None:
        """Connect, where there is something to connect to; a backend that is away is waited for in the background."""

    async def close(self) -> None:
        """Let go. May be called twice."""

    async def ready(self) -> None:
        """Return where values can be kept now; raises Unavailable where not."""

    async def get(self, key: str) -> bytes | None:
        """What was put under the key last; None where there is nothing, or nothing any more."""
        ...

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        """Keep it for so long, in place of what was there. What is larger than all the room there is, is not kept."""

    async def drop(self, *keys: str) -> None:
        """Forget these; keys that are not there are forgotten already."""
