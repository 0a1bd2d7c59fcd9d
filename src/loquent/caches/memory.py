"""A cache in this process's memory, bounded in bytes: what was not looked at for the longest time goes first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping

BESIDE = 300  # bytes that an entry takes beside its value: the key, the entry itself, its place


class Memory:
    """Times are of the monotonic clock: no change of the hour keeps a value longer."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._hits = 0
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # the next to go comes first

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._taken = 0

    async def ready(self) -> None:
        """Always."""

    def figures(self) -> Mapping[str, float]:
        """See Watched."""
        return {"memory_hits": self._hits, "memory_bytes": self._taken}

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= time.monotonic():
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return entry[0]

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        """See the port."""
        self._forget(key)
        if len(value) + BESIDE > self._size:
            return
        self._entries[key] = value, time.monotonic() + seconds
        self._taken += len(value) + BESIDE
        while self._taken > self._size:
            self._forget(next(iter(self._entries)))

    async def drop(self, *keys: str) -> None:
        """See the port."""
        for key in keys:
            self._forget(key)

    def _forget(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._taken -= len(entry[0]) + BESIDE
