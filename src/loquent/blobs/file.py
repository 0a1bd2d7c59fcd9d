"""Blobs in a folder of this machine: a blob is a file, in one of 256 folders or so by the end of its key."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from loquent.blobs import KEY, checked, folder_of
from loquent.domain import failpoints
from loquent.domain.clock import Moment
from loquent.domain.errors import Misconfigured, NotFound, OutOfSpace, Unavailable
from loquent.domain.urls import without_password
from loquent.ports.blobs import Kept

T = TypeVar("T")
PIECE = 65_536  # bytes of a blob that are in memory at a time
BLOCK = 1 << 20  # the same while one is copied
UNFINISHED = ".put-"  # how the names of files begin that are not whole yet
RETRY = 30  # seconds after which an absent disk may be there again


class File:
    """A folder: ``documents/doc_…7a`` lies at ``documents/7a/doc_…7a`` in it. Only the owner can read any of it.

    A blob is written under another name beside its place, made durable, and only then renamed: what a crash leaves is
    a file that has no key, and ``list`` removes those that are as old as the blobs it is asked for.
    """

    def __init__(self, url: str) -> None:
        """Raises Misconfigured where the URL names no folder."""
        root = folder_of(url)
        if root is None:
            shown = without_password(url)
            raise Misconfigured(f"LOQUENT_BLOBS holds {shown!r}; it takes a folder, as in file:///srv/loquent/blobs")
        self._root = root

    async def open(self) -> None:
        """See the port."""
        try:
            await _away(lambda: self._root.mkdir(mode=0o700, parents=True, exist_ok=True))
        except OSError as error:
            raise Misconfigured(f"LOQUENT_BLOBS: {self._root} cannot be a folder: {error.strerror}") from error

    async def close(self) -> None:
        """See the port."""

    async def ready(self) -> None:
        """See the port."""
        await self._try(self._touch)

    async def put(self, key: str, path: Path) -> None:
        """See the port."""
        place = self._place(key)
        await self._try(lambda: _put(path, place))

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """See the port."""
        place = self._place(key)
        try:
            file = await _away(lambda: place.open("rb", buffering=0))
        except FileNotFoundError:
            raise NotFound("there is no such file") from None
        except OSError as error:
            raise _away_for_now(error) from error
        with file:
            while piece := await self._try(lambda: file.read(PIECE)):
                yield piece

    async def remove(self, key: str) -> None:
        """See the port."""
        place = self._place(key)
        await self._try(lambda: place.unlink(missing_ok=True))

    def address(self, key: str) -> str:
        """See the port."""
        return self._place(key).as_uri()

    async def link(self, key: str, disposition: str) -> str | None:
        """See the port: a folder has none."""
        return None

    async def list(self, *, until: Moment) -> AsyncIterator[Kept]:
        """See the port."""
        for folder in await self._try(lambda: _folders(self._root)):
            for shard in await self._try(lambda folder=folder: _folders(folder)):  # type: ignore[misc]
                for kept in await self._try(lambda shard=shard: _kept_in(shard, until)):  # type: ignore[misc]
                    yield kept

    def _place(self, key: str) -> Path:
        folder, _, name = checked(key).partition("/")
        return self._root / folder / name[-2:] / name

    def _touch(self) -> None:
        with tempfile.NamedTemporaryFile(prefix=UNFINISHED, dir=self._root) as probe:
            probe.write(b"\0" * 4096)  # an empty file fits on a full disk
            probe.flush()

    async def _try(self, work: Callable[[], T]) -> T:
        try:
            return await _away(work)
        except OSError as error:
            raise _away_for_now(error) from error


async def _away(work: Callable[[], T]) -> T:
    """In a thread; the work is over when this returns, also where the one who waits is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _away_for_now(error: OSError) -> Unavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"the place for uploaded files is full ({error.strerror})")
    return Unavailable(f"the place for uploaded files is away ({error.strerror})", retry_after=RETRY)


def _put(source: Path, place: Path) -> None:
    _make_folder(place.parent)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=place.parent)  # only the owner can read it
    try:
        with os.fdopen(handle, "wb") as file:
            with source.open("rb") as whole:
                shutil.copyfileobj(whole, file, BLOCK)
            file.flush()
            os.fsync(file.fileno())
        failpoints.passing("mid-blob")
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    try:
        _settle(place.parent)
    except BaseException:
        place.unlink(missing_ok=True)
        raise


def _make_folder(folder: Path) -> None:
    """Make it where it is missing, and those above it, so that they outlive a loss of power."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _settle(folder.parent)


def _settle(folder: Path) -> None:
    """What stands in a folder is durable when this returns."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as found:
        return sorted(Path(each.path) for each in found if each.is_dir(follow_symlinks=False))


def _kept_in(shard: Path, until: Moment) -> list[Kept]:
    """The blobs in the innermost folder; files there that never became one, and are as old, are removed."""
    with os.scandir(shard) as found:
        return list(_seen(found, shard, until))


def _seen(found: Iterator[os.DirEntry[str]], shard: Path, until: Moment) -> Iterator[Kept]:
    for each in found:
        try:
            known = each.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # removed meanwhile
        moment = Moment(known.st_mtime_ns // 1_000)
        if moment > until:
            continue
        if each.name.startswith(UNFINISHED):
            Path(each.path).unlink(missing_ok=True)
        elif each.name[-2:] == shard.name and KEY.fullmatch(key := f"{shard.parent.name}/{each.name}"):
            yield Kept(key, known.st_size, moment)
