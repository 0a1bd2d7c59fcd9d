"""Passwords: argon2id hashes, made in a bounded pool so that logins never stop the rest (RFC 9106)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from loquent.domain.errors import Unavailable

if TYPE_CHECKING:
    from pwdlib import PasswordHash

T = TypeVar("T")
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1  # OWASP's first choice: about 40 ms
MOST_WAITING = 64


class Passwords:
    """Hashes and compares. More than MOST_WAITING at once are refused with Unavailable."""

    def __init__(self, *, threads: int, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._cost = (memory_kib, passes)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="password")
        self._waiting = 0
        self._nobody = ""

    async def hash(self, password: str) -> str:
        """The hash to keep."""
        return await self._run(lambda: _hasher(*self._cost).hash(password))

    async def matches(self, password: str, kept: str | None) -> bool:
        """Whether it is the one; without a hash it takes as long and says no, so that names cannot be guessed."""
        if kept is None and not self._nobody:
            self._nobody = await self.hash("nobody's password")
        same = await self._run(lambda: _hasher(*self._cost).verify(password, kept or self._nobody))
        return same and kept is not None

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise Unavailable("too many people are logging in at once", retry_after=2)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1


@cache
def _hasher(memory_kib: int, passes: int) -> PasswordHash:
    """Made in the pool with the first password that comes: the library is slow to import, and many see none."""
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher

    return PasswordHash((Argon2Hasher(time_cost=passes, memory_cost=memory_kib, parallelism=LANES),))
