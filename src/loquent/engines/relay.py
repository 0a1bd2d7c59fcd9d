"""An answer on its way from the thread that makes it to the event loop that gives it out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from loquent.domain.errors import LoquentError
from loquent.ports.engine import Chunk


class Relay:
    """A thread puts, the loop takes; made in the loop, for one answer. Whoever listens no more has ``left``."""

    def __init__(self) -> None:
        self.left = False  # nobody listens any more
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[Chunk | LoquentError | None] = deque()
        self._wake = asyncio.Event()
        self._is_waking = False

    def put(self, *pieces: Chunk | LoquentError | None) -> None:
        """In any thread: the next pieces. An error ends the answer, and None does."""
        self._pieces.extend(pieces)
        if not pieces or self._is_waking:
            return
        self._is_waking = True  # one wake-up is enough for all that comes until the loop has its turn
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the loop has ended, and whoever listened with it
            self.left = True

    def fail(self, fault: LoquentError) -> None:
        """In any thread: the answer ends with this."""
        self.put(fault)
        self.left = True

    async def chunks(self) -> AsyncIterator[Chunk]:
        """In the loop: the pieces as they come."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._is_waking = False
            while self._pieces:
                piece = self._pieces.popleft()
                if piece is None:
                    return
                if isinstance(piece, LoquentError):
                    raise piece
                yield piece
