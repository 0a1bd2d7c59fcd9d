"""Looks: what other processes have changed in the store is looked for again and again, while this one runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loquent.domain.errors import LoquentError
from loquent.domain.log import Log

EVERY = 0.5  # seconds: whatever an administrator changes is to hold everywhere within one second


class Looks:
    """One look after the other. A store that is away is told of once, and looked at again."""

    def __init__(self, what: str, look: Callable[[], Awaitable[None]], log: Log) -> None:
        self._what = what
        self._look = look
        self._log = log
        self._loop: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin."""
        self._loop = asyncio.create_task(self._keep(), name=self._what)

    async def close(self) -> None:
        """Look no more."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None

    async def _keep(self) -> None:
        is_away = False
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self._look()
                is_away = False
            except LoquentError as error:
                if not is_away:
                    self._log.warning(f"{self._what} cannot be read", why=error.message)
                is_away = True
            except Exception:
                self._log.exception(f"{self._what} cannot be read")
