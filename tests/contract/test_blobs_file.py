"""What is the folder's own: who may read it, what a crash or a full disk leaves, and what is no folder."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from faults import away
from loquent.blobs import connect
from loquent.domain import ids
from loquent.domain.clock import SECOND, later, now
from loquent.domain.errors import Misconfigured, Unavailable
from loquent.ports.blobs import Blobs

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "blobs"


@pytest.fixture
async def blobs(root: Path) -> AsyncIterator[Blobs]:
    opened = connect(f"file://{root}")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(b"x" * 100_000)
    return path


def modes(root: Path) -> set[tuple[bool, int]]:
    """Which modes folders (True) and files have there."""
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [root, *root.rglob("*")]}


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_only_the_owner_can_read_any_of_it(blobs: Blobs, root: Path, upload: Path) -> None:
    before = os.umask(0)
    try:
        await blobs.put(f"documents/{ids.new('doc')}", upload)
    finally:
        os.umask(before)
    assert modes(root) == {(True, 0o700), (False, 0o600)}


async def test_blobs_are_spread_over_folders_by_the_end_of_their_ids(blobs: Blobs, root: Path, upload: Path) -> None:
    id = ids.new("doc")
    await blobs.put(f"documents/{id}", upload)
    assert files(root) == [root / "documents" / id[-2:] / id]
    assert blobs.address(f"documents/{id}") == (root / "documents" / id[-2:] / id).as_uri()


@pytest.fixture
def full(upload: Path) -> Iterator[None]:
    """No file of this process may grow over 10,000 bytes: a write fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full")
async def test_where_there_is_no_room_nothing_is_left_behind(blobs: Blobs, root: Path, upload: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        await blobs.put(f"documents/{ids.new('doc')}", upload)
    assert refused.value.retry_after
    assert files(root) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", [1, 2])
async def test_a_disk_that_fails_to_settle_is_unavailable_and_nothing_is_left(
    blobs: Blobs, root: Path, upload: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: int
) -> None:
    await blobs.put(f"documents/{'0' * 30}aa", upload)  # so that the folders stand
    [kept] = files(root)
    calls = 0

    def fails(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(Unavailable):
        await blobs.put(f"documents/{'1' * 30}aa", upload)
    assert calls == call
    assert files(root) == [kept]


async def test_what_a_crash_left_half_written_is_removed_once_it_is_old(blobs: Blobs, root: Path, upload: Path) -> None:
    await blobs.put(f"documents/{'0' * 30}aa", upload)
    shard = root / "documents" / "aa"
    old, young = shard / ".put-old", shard / ".put-young"
    for path, seconds in ((old, 100), (young, 0)):
        path.write_bytes(b"half of it")
        moment = now() / SECOND - seconds
        os.utime(path, (moment, moment))
    found = [kept.key async for kept in blobs.list(until=later(now(), -50))]
    assert (found, old.exists(), young.exists()) == ([], False, True)


async def test_what_somebody_else_put_there_is_no_blob(blobs: Blobs, root: Path, upload: Path) -> None:
    await blobs.put(f"documents/{'0' * 30}aa", upload)
    strangers = [root / "notes.txt", root / "documents" / "readme", root / "documents" / "aa" / "README.md"]
    for path in strangers:
        path.write_text("mine")
    found = [kept.key async for kept in blobs.list(until=later(now(), 60))]
    assert found == [f"documents/{'0' * 30}aa"]
    assert all(path.exists() for path in strangers)


async def test_a_folder_that_goes_and_comes_back_heals_without_a_restart(
    blobs: Blobs, root: Path, upload: Path
) -> None:
    with away(root):
        for ask in (blobs.ready(), blobs.put("documents/aa", upload)):
            with pytest.raises(Unavailable):
                await ask
    await blobs.ready()
    await blobs.put("documents/aa", upload)
    assert len(files(root)) == 1


@pytest.mark.parametrize("url", ["file:", "file://", "file://host/x", "file:relative", "file://relative"])
def test_a_url_that_names_no_folder_stops_the_start(url: str) -> None:
    with pytest.raises(Misconfigured, match="LOQUENT_BLOBS"):
        connect(url)


async def test_a_path_that_is_no_folder_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Misconfigured, match="LOQUENT_BLOBS"):
            await connect(f"file://{path}").open()
