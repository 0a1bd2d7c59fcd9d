"""Room: what is left on the disks; new work is refused while there is still enough to finish, read and remove by."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loquent.domain.errors import OutOfSpace
from loquent.domain.log import Log

log = Log("loquent.room")

BALLAST = "ballast"
"""A file of zeros beside the database, given up when others fill the disk: the database never meets its end."""
SHARE, HEAVIEST = 4, 16 << 20  # the ballast is this part of the reserve, and no more bytes than that
LOOK, CLOSE_LOOK = 1.0, 0.2  # seconds between looks; the shorter where less than SHARE reserves are left
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Disk:
    """One as it is now, in bytes."""

    size: int
    free: int  # that may still be written, by who we are


class Room:
    """Watches the folders that this process writes to; ``reserve``: bytes that are to stay free there, 0: any.

    ``rows``: the database's folder, where there is one; it gets the ballast. ``files``: that of uploads. ``data``:
    that of all else, which monitors are told of too. What is asked for each request is a field in memory: the disks
    are looked at by a task, in a thread.
    """

    def __init__(self, rows: Path | None, files: Path | None, *, reserve: int, data: Path | None = None) -> None:
        self._rows, self._files, self._data = rows, files, data
        self._reserve = reserve
        self._weight = min(reserve // SHARE, HEAVIEST)
        self._left: dict[Path, int] = {}
        self._held = 0  # bytes of uploads that are on their way
        self._why = ""
        self._can_hold = True  # a ballast
        self._watch: asyncio.Task[None] | None = None
        self.is_full = False
        """Whether nothing new is begun: no rows are added, and no jobs taken."""

    async def open(self) -> None:
        """Look, and go on looking. Before the database is opened: it may need the ballast's place to start."""
        if self._reserve and self._folders():
            await asyncio.to_thread(self._look)
            self._watch = asyncio.create_task(self._go_on(), name="room")

    async def close(self) -> None:
        """Look no more. May be called twice."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None

    def check(self) -> None:
        """Raise OutOfSpace where nothing new is to be begun."""
        if self.is_full:
            raise OutOfSpace(self._why)

    def hold(self, size: int) -> None:
        """Count an upload of so many bytes as on its way, until ``let_go``. Raises OutOfSpace where it has no room."""
        self.check()
        for folder in self._left:
            if self._left[folder] - self._held - size < self._reserve:
                raise OutOfSpace(f"there is no room for {size} bytes more")
        self._held += size

    def let_go(self, size: int) -> None:
        """The upload is over."""
        self._held -= size

    async def ready(self) -> None:
        """See Health: raises OutOfSpace where nothing new is begun."""
        self.check()

    def disks(self) -> dict[str, Disk]:
        """What there is of each disk that is written to, by the first of what lies there. To be called in a thread."""
        places = {"data": self._data, "database": self._rows, "files": self._files}
        found: dict[int, tuple[str, Disk]] = {}
        for what, folder in places.items():
            if folder is not None:
                place = nearest(folder)
                found.setdefault(place.stat().st_dev, (what, _disk(place)))
        return dict(found.values())

    def short(self) -> dict[Path, int]:
        """Where fewer bytes are left than are to stay free, and how many: a folder of each disk. In a thread."""
        places = {place.stat().st_dev: place for place in (nearest(each.absolute()) for each in self._folders())}
        return {place: left for place in places.values() if (left := _disk(place).free) < self._reserve}

    async def _go_on(self) -> None:
        while True:
            is_near = any(left < SHARE * self._reserve for left in self._left.values())
            await asyncio.sleep(CLOSE_LOOK if is_near else LOOK)
            try:
                await asyncio.to_thread(self._look)
            except Exception:
                log.exception("cannot look at the disks")

    def _look(self) -> None:
        """In a thread: see what is left, give the ballast up or make it anew, and say where that changes things."""
        low = []
        for folder in self._folders():
            left = _disk(folder).free
            if folder == self._rows:
                left = self._trim(folder, left)
            self._left[folder] = left
            if left < self._reserve or (folder == self._rows and self._can_hold and not self._stands(folder)):
                low.append(folder)
        was, self.is_full = self.is_full, bool(low)
        if low:
            self._why = f"the disk is nearly full: under {_shown(self._reserve)} are left to begin anything new with"
        if self.is_full != was:
            say = log.warning if low else log.info
            say(
                "the disk is nearly full: nothing new is begun" if low else "there is room again", **_fields(self._left)
            )

    def _trim(self, folder: Path, left: int) -> int:
        """The ballast there as it should be; gives what is left then."""
        ballast = folder / BALLAST
        if left < self._weight and ballast.exists():
            ballast.unlink(missing_ok=True)
            log.warning("the ballast is given up, so that what runs can be finished", file=str(ballast))
            return _disk(folder).free
        if left >= self._reserve + self._weight and self._can_hold and folder.is_dir() and not self._stands(folder):
            self._can_hold = _made(ballast, self._weight)
            return _disk(folder).free
        return left

    def _stands(self, folder: Path) -> bool:
        try:
            return (folder / BALLAST).stat().st_size >= self._weight
        except OSError:
            return False

    def _folders(self) -> Iterable[Path]:
        return dict.fromkeys(each for each in (self._rows, self._files) if each is not None)


def _disk(folder: Path) -> Disk:
    known = os.statvfs(nearest(folder))
    return Disk(known.f_blocks * known.f_frsize, known.f_bavail * known.f_frsize)


def nearest(folder: Path) -> Path:
    """The folder, or where it will be made."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _made(ballast: Path, weight: int) -> bool:
    """Fill it up; False where this is no place for one, whatever the room."""
    try:
        with ballast.open("wb") as file:
            for at in range(0, weight, BLOCK):
                file.write(bytes(min(BLOCK, weight - at)))
    except PermissionError:
        return False
    except OSError:
        ballast.unlink(missing_ok=True)  # somebody was quicker to fill the disk
    return True


def _shown(size: int) -> str:
    return f"{size / (1 << 20):.3g} MB"


def _fields(left: dict[Path, int]) -> dict[str, str]:
    return {f"left_in_{folder.name}": _shown(size) for folder, size in left.items()}
