"""A Driver of two threads, of which one writes and one reads, each in groups and with a connection of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from loquent.stores.lane import Job, Lane
from loquent.stores.sql import Call

Link = TypeVar("Link")


class Lanes(ABC, Generic[Link]):
    """What the Drivers of SQL databases have in common.

    A connection that met an error which is not a caller's is dropped, and the next group makes a new one: so a
    database that was locked, full or away heals by itself.
    """

    def __init__(self, name: str) -> None:
        self._writer: Link | None = None
        self._reader: Link | None = None
        self._writes = Lane(f"{name}-writer", self._write_group, self._drop_writer)
        self._reads = Lane(f"{name}-reader", self._read_group, self._drop_reader)

    # What the database says.

    @abstractmethod
    def _write_group(self, group: list[Job]) -> None:
        """Do it in as few transactions as may be; each job's own conflict undoes that job alone."""

    @abstractmethod
    def _read_group(self, group: list[Job]) -> None:
        """Answer all; what was committed before one of them asked is in its answer."""

    @abstractmethod
    def _close(self, dropped: Link) -> None:
        """Let go of it, whatever state it is in."""

    def _is_open(self, used: Link) -> bool:
        """Whether it counts as a connection that is there."""
        return True

    def _done(self, lane: Lane, calls: Sequence[Call]) -> Awaitable[Any]:
        """Have it done."""
        return lane.do(calls)

    # What a Driver does.

    async def open(self) -> None:
        """Start both threads."""
        self._writes.open()
        self._reads.open()

    async def close(self) -> None:
        """Finish what waits."""
        await self._writes.close()
        await self._reads.close()

    async def read(self, call: Call) -> list[Any]:
        """See Driver."""
        rows: list[Any] = await self._done(self._reads, (call,))
        return rows

    async def write(self, calls: Sequence[Call]) -> None:
        """See Driver. No calls at all: only see whether one could be made."""
        await self._done(self._writes, calls)

    async def take(self, call: Call) -> list[Any]:
        """See Driver."""
        rows: list[Any] = await self._done(self._writes, (call,))
        return rows

    def figures(self) -> Mapping[str, float]:
        """See Watched."""
        used = (self._writer, self._reader)
        return {
            "reads_waiting": self._reads.waiting,
            "writes_waiting": self._writes.waiting,
            "connections": sum(each is not None and self._is_open(each) for each in used),
        }

    def _drop_writer(self) -> None:
        dropped, self._writer = self._writer, None
        if dropped is not None:
            self._close(dropped)

    def _drop_reader(self) -> None:
        dropped, self._reader = self._reader, None
        if dropped is not None:
            self._close(dropped)
