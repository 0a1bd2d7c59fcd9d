"""An answer on its way from the thread that makes it to the event loop that gives it out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from loquent.domain.errors import EngineTimeout, LoquentError
from loquent.domain.models import Timeouts
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

    async def chunks(self, name: str, timeouts: Timeouts) -> AsyncIterator[Chunk]:
        """In the loop: the pieces as they come. Raises EngineTimeout where they do not, naming the model."""
        now = self._loop.time
        until, quiet = now() + timeouts.total, timeouts.first
        while True:
            try:
                async with asyncio.timeout_at(min(until, now() + quiet)):
                    await self._wake.wait()
            except TimeoutError as late:
                raise EngineTimeout(f"model {name}: the engine did not answer in time") from late
            quiet = timeouts.idle
            self._wake.clear()
            self._is_waking = False
            while self._pieces:
                piece = self._pieces.popleft()
                if piece is None:
                    return
                if isinstance(piece, LoquentError):
                    raise piece
                yield piece
