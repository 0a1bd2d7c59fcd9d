"""Room: the disk is looked at by a task, the ballast lies ready, and nothing new is begun when it fills up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from built import ANN, opened, wanted
from loquent.domain.errors import SPACE_SECONDS, OutOfSpace
from loquent.domain.generations import Generation
from loquent.services.room import BALLAST, CLOSE_LOOK, Room

pytestmark = pytest.mark.anyio
KB = 1_000
FOREVER = 1 << 60  # bytes, that no disk has


@contextmanager
def tight(room: Room) -> Iterator[None]:
    """The reserve is more than any disk has, as where the disk is nearly full."""
    reserve, room._reserve = room._reserve, FOREVER
    try:
        yield
    finally:
        room._reserve = reserve


async def seen() -> None:
    """Two looks later."""
    await asyncio.sleep(2 * CLOSE_LOOK + 0.1)


async def test_a_ballast_lies_beside_the_database_and_is_a_quarter_of_the_reserve(tmp_path: Path) -> None:
    room = Room(tmp_path, tmp_path / "blobs", reserve=100 * KB)
    await room.open()
    assert (tmp_path / BALLAST).stat().st_blocks * 512 >= 25 * KB
    room.check()
    await room.close()
    await room.close()


async def test_without_a_reserve_or_a_folder_nothing_is_refused(tmp_path: Path) -> None:
    for room in (Room(tmp_path, None, reserve=0), Room(None, None, reserve=KB)):
        await room.open()
        room.check()
        room.hold(FOREVER)
        room.let_go(FOREVER)
        await room.close()
    assert not (tmp_path / BALLAST).exists()


async def test_with_less_than_the_reserve_nothing_new_is_begun_until_there_is_room(tmp_path: Path) -> None:
    room = Room(None, tmp_path, reserve=100 * KB)
    await room.open()
    room._reserve = FOREVER
    await asyncio.to_thread(room._look)
    with pytest.raises(OutOfSpace, match="nearly full") as refused:
        room.check()
    assert refused.value.retry_after
    with pytest.raises(OutOfSpace):
        await room.ready()
    room._reserve = 100 * KB
    await seen()
    room.check()
    await room.close()


async def test_uploads_on_their_way_are_counted_until_they_are_over(tmp_path: Path) -> None:
    room = Room(None, tmp_path, reserve=100 * KB)
    await room.open()
    most = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize - 50_000 * KB  # others write here, too
    room.hold(most)
    with pytest.raises(OutOfSpace, match="no room for"):
        room.hold(most)
    room.let_go(most)
    room.hold(most)
    await room.close()


async def test_jobs_wait_while_the_disk_is_nearly_full(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        await seen()
        with tight(services.room):
            await asyncio.to_thread(services.room._look)
            begun = await services.generations.submit(ANN, wanted("x"))
            await seen()
            [record] = await services.store.get(Generation, begun.generation.id)
            assert (record.status, record.attempts) == ("pending", 0)
        async with asyncio.timeout(10):
            while not record.is_over:
                await asyncio.sleep(0.05)
                [record] = await services.store.get(Generation, begun.generation.id)
    assert record.status == "completed"


async def test_monitors_are_told_of_each_disk_once(tmp_path: Path) -> None:
    same = Room(tmp_path / "rows", tmp_path / "files", reserve=0, data=tmp_path)
    assert [*same.disks()] == ["data"]
    assert [*Room(None, tmp_path, reserve=0).disks()] == ["files"]
    apart = Room(Path("/dev/shm"), tmp_path, reserve=0, data=Path("/proc")).disks()
    assert [*apart] == ["data", "database", "files"]
    assert apart["files"].size >= apart["files"].free > 0


async def test_a_full_disk_is_told_with_one_wait_wherever_it_is_met() -> None:
    assert OutOfSpace("here").retry_after == SPACE_SECONDS
