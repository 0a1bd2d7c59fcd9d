"""Uploads: files that are kept as blobs with a record each, whatever they are; found, given out and removed."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, Protocol, TypeVar

from loquent.domain import failpoints
from loquent.domain.clock import now
from loquent.domain.errors import LoquentError, Mismatch, NotFound, Stale, StillRunning, Taken, Unavailable
from loquent.domain.idempotency import Repeat, repeat, repeat_id
from loquent.domain.log import Log
from loquent.domain.principals import Principal
from loquent.ports.blobs import Blobs
from loquent.ports.limiter import State
from loquent.ports.store import Add, Change, Page, Position, Remove, Store
from loquent.services import limits
from loquent.services.limits import Limits
from loquent.services.scope import Scoped
from loquent.services.wanted import Begun, Key

log = Log("loquent.uploads")


class Upload(Protocol):
    """A record that has a blob."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def blob(self) -> str:
        """The key of its blob."""
        ...


U = TypeVar("U", bound=Upload)


@dataclass(frozen=True, slots=True)
class Uploaded(Generic[U]):
    """One that was accepted."""

    record: U
    limit: State | None = None
    replayed: bool = False


class Uploads(Generic[U]):
    """The uploads of one ``kind``, each its owner's own. ``called``: what a person calls one.

    The blob goes before its record and stays longer: what a crash leaves is a blob without a record, which a sweep
    finds; a record never lacks its blob.
    """

    def __init__(self, store: Store, blobs: Blobs, limits: Limits, kind: type[U], *, called: str) -> None:
        self._store = store
        self._blobs = blobs
        self._limits = limits
        self._kind = kind
        self._called = called
        self._removing: set[asyncio.Task[None]] = set()

    async def accept(self, who: Principal, key: Key | None, make: Callable[[], Awaitable[U]]) -> Uploaded[U]:
        """What ``make`` keeps, counted as a generation is; or what an earlier request with this key kept.

        Raises Over, Mismatch, StillRunning, and what ``make`` does.
        """
        if known := await self._repeated(who, key):
            return Uploaded(known, replayed=True)
        whom = f"{who.tenant}/{who.owner}"
        state = await self._limits.take(limits.GENERATIONS, whom)
        try:
            return Uploaded(await make(), state)
        except Taken:
            if (known := await self._repeated(who, key)) is None:
                raise StillRunning("another request with this Idempotency-Key is being worked on") from None
            await self._limits.give_back(limits.GENERATIONS, whom)
            return Uploaded(known, replayed=True)

    async def keep(self, who: Principal, record: U, path: Path, *beside: Change, key: Key | None = None) -> None:
        """Keep a copy of the file at ``path`` with its record, and what stands beside that. Raises Taken, Unavailable.

        Taken: another request with the same key was first.
        """
        rows: list[Change] = [Add(record), *beside]
        if key is not None:
            rows.append(Add(_mark(who, key, record.id)))
        failpoints.passing("before-blob")
        await self._blobs.put(record.blob, path)
        failpoints.passing("after-blob")
        try:
            await Scoped(self._store, who).write(*rows)
        except Unavailable:
            raise  # unknown whether it happened: where it did not, a sweep finds the blob
        except LoquentError:
            await self._drop(record)
            raise
        failpoints.passing("after-rows")

    async def begin(self, asked: Awaitable[Begun], remove: Callable[[], Coroutine[object, object, None]]) -> Begun:
        """What ``asked`` begins about one that has just been kept; where that is nothing new, ``remove`` is done.

        Cut off, or where nobody knows whether it was begun, the upload stays: an answer may be about it.
        """
        try:
            begun = await asked
        except Unavailable:
            raise
        except Exception:
            await self._undo(remove)
            raise
        if begun.replayed:
            await self._undo(remove)
        return begun

    async def page(self, who: Principal, *, limit: int, after: str | None = None) -> Page[U]:
        """One's own, newest first, from behind the id ``after``."""
        position = Position(after, after) if after else None
        return await Scoped(self._store, who).page(self._kind, "newest", limit=limit, after=position)

    async def get(self, who: Principal, id: str) -> U:
        """One's own. Raises NotFound."""
        found = await Scoped(self._store, who).get(self._kind, id)
        if not found:
            raise self._absent()
        return found[0]

    async def original(self, who: Principal, id: str) -> tuple[U, AsyncGenerator[bytes, None]]:
        """What is kept of the file, piece by piece. Raises NotFound."""
        record = await self.get(who, id)
        return record, self._blobs.get(record.blob)

    async def remove(self, who: Principal, record: U, *beside: Change) -> None:
        """Erase it, and what stands beside it. Raises NotFound."""
        try:
            await Scoped(self._store, who).write(Remove(record), *beside)
        except Stale:  # an upload never changes: it has just been removed
            raise self._absent() from None
        failpoints.passing("after-remove")
        await self._drop(record)

    async def _undo(self, remove: Callable[[], Coroutine[object, object, None]]) -> None:
        """Remove one that came to nothing, to the end, though the one who waits may be cancelled."""

        async def undo() -> None:
            try:
                await remove()
            except NotFound:
                pass  # its owner was faster
            except LoquentError as error:
                log.warning("an upload is left that came to nothing", why=error.message)

        task = asyncio.create_task(undo())
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)
        await asyncio.shield(task)

    async def _repeated(self, who: Principal, key: Key | None) -> U | None:
        """What an earlier request with this key kept; None where there is none that still counts. Raises Mismatch."""
        if key is None:
            return None
        scoped = Scoped(self._store, who)
        found = await scoped.get(Repeat, repeat_id(who, route=key.route, key=key.key))
        if not found:
            return None
        kept = await scoped.get(self._kind, found[0].generation)
        if not kept or found[0].expires_at <= now():
            await scoped.write(Remove(found[0]))
            return None
        if found[0].fingerprint != _mark(who, key, "").fingerprint:
            raise Mismatch("this Idempotency-Key came before, with another body", field="Idempotency-Key")
        return kept[0]

    async def _drop(self, record: U) -> None:
        """Remove the blob of what has no record; where that cannot be done now, a sweep does it later."""
        try:
            await self._blobs.remove(record.blob)
        except Unavailable as error:
            log.warning("a file is left for the sweep", upload=record.id, why=error.message)

    def _absent(self) -> NotFound:
        return NotFound(f"there is no such {self._called}")


@contextmanager
def unnamed() -> Iterator[tuple[IO[bytes], Path]]:
    """A file for as long as the block lasts, and where it can be read. Raises OSError.

    Where the system can, it never has a name: so it goes also with a process that is killed.
    """
    if sys.platform == "linux":
        with tempfile.TemporaryFile() as file:
            yield file, Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.NamedTemporaryFile(prefix="loquent-upload-") as named:
            yield named, Path(named.name)


def _mark(who: Principal, key: Key, upload: str) -> Repeat:
    return repeat(who, route=key.route, key=key.key, body=key.body, generation=upload)
