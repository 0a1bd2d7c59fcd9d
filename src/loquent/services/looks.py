"""Looks: what other processes have changed in the store is looked for again and again, while this one runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loquent.domain.errors import LoquentError, Unavailable
from loquent.domain.log import Log
from loquent.domain.outages import Outage

EVERY = 0.5  # seconds: whatever an administrator changes is to hold everywhere within one second


class Looks:
    """One look after the other. A store that is away is told of by ``outage``, and looked at again."""

    def __init__(self, what: str, look: Callable[[], Awaitable[None]], log: Log, outage: Outage) -> None:
        self._what = what
        self._look = look
        self._log = log
        self._outage = outage
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
        is_wrong = False
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self._look()
                self._outage.back(self._what)
                is_wrong = False
            except Unavailable as error:
                self._outage.gone(self._what, error.message)
            except LoquentError as error:
                if not is_wrong:
                    self._log.warning(f"{self._what} cannot be read", why=error.message)
                is_wrong = True
            except Exception:
                self._log.exception(f"{self._what} cannot be read")
