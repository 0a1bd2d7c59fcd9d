"""The memory store: the shipped fake, under the same contract as the others; nothing outlives the process."""

from __future__ import annotations

from asyncio import sleep
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from loquent.domain.errors import Misconfigured, Stale, Taken, Unavailable
from loquent.domain.records import Order
from loquent.domain.urls import without_password
from loquent.ports.store import COUNT_CAP, Change, Page, Position
from loquent.stores import Checked
from loquent.stores.rows import Row, Rows, Step, check_position, check_values, put_and_added, rows_of, steps

R = TypeVar("R")
Listed = list[tuple[Any, str]]  # (value of `by`, id), sorted


class Memory:
    """Records in dictionaries, orders in sorted lists.

    Each verb gives way to other tasks once before it looks, as a store over a network would, and then runs to its
    end, so that a write is all or none by itself. What is kept are rows: changing a record's dict later changes
    nothing here.
    """

    def __init__(self, url: str, data_dir: Path) -> None:
        if url.removesuffix("//") != "memory:":
            shown = without_password(url)
            raise Misconfigured(f"LOQUENT_STORE holds {shown!r}; the memory store takes nothing after memory:")
        self._kept: dict[type[Any], dict[str, Row]] = defaultdict(dict)
        self._keys: dict[tuple[Any, ...], str] = {}
        self._lists: dict[tuple[Any, ...], Listed] = defaultdict(list)
        self._is_open = False

    async def open(self) -> None:
        """Nothing to connect to."""
        self._is_open = True

    async def close(self) -> None:
        """Refuse from now on; what was kept is there again after another open."""
        self._is_open = False

    async def ready(self) -> None:
        """Ready while open."""
        await self._turn()

    async def upgrade(self) -> None:
        """Nothing to bring up to date."""

    async def check(self) -> Checked:
        """Always sound."""
        return Checked(current=None, head=None)

    async def get(self, kind: type[R], *ids: str) -> list[R]:
        """See Store."""
        check_values(*ids)
        rows = rows_of(kind)
        await self._turn()
        kept = self._kept[kind]
        return [rows.record(kept[id]) for id in ids if id in kept]

    async def find(self, kind: type[R], key: str, at: Mapping[str, Any]) -> R | None:
        """See Store."""
        rows = rows_of(kind)
        values = rows.unique(key, at)
        await self._turn()
        id = self._keys.get((kind, key, values))
        return None if id is None else rows.record(self._kept[kind][id])

    async def page(
        self,
        kind: type[R],
        order: str,
        at: Mapping[str, Any],
        *,
        limit: int,
        after: Position | None = None,
        back: bool = False,
        until: Any = None,
    ) -> Page[R]:
        """See Store."""
        rows = rows_of(kind)
        declared, values = rows.within(order, at)
        check_position(after)
        check_values(until)
        await self._turn()
        listed = self._lists.get((kind, order, values), [])
        low, high = 0, len(listed) if until is None else bisect_right(listed, until, key=_by)
        goes_up = declared.desc == back
        if after is not None and goes_up:
            low = bisect_right(listed, tuple(after))
        elif after is not None:
            high = min(high, bisect_left(listed, tuple(after)))
        found = listed[low : min(high, low + limit)] if goes_up else listed[max(low, high - limit) : high]
        if declared.desc:
            found = found[::-1]
        kept = self._kept[kind]
        return Page([rows.record(kept[id]) for _, id in found], more=high - low > limit)

    async def count(self, kind: type[R], order: str, at: Mapping[str, Any], *, cap: int = COUNT_CAP) -> int:
        """See Store."""
        _, values = rows_of(kind).within(order, at)
        await self._turn()
        return min(cap, len(self._lists.get((kind, order, values), ())))

    async def write(self, *changes: Change) -> None:
        """See Store."""
        planned = steps(changes)
        await self._turn()
        done: list[tuple[Rows[Any], Row | None, Row | None]] = []
        try:
            for step in planned:
                before, after = self._outcome(step)
                self._move(step.rows, before, after)
                done.append((step.rows, before, after))
        except (Taken, Stale):
            for rows, before, after in reversed(done):
                self._move(rows, after, before)
            raise

    async def take(
        self,
        kind: type[R],
        order: str,
        at: Mapping[str, Any],
        *,
        until: Any,
        n: int,
        put: Mapping[str, Any],
        add: Mapping[str, int],
    ) -> list[R]:
        """See Store."""
        rows = rows_of(kind)
        _, values = rows.within(order, at)
        stored = put_and_added(rows, put, add)
        check_values(until)
        await self._turn()
        listed = self._lists.get((kind, order, values), [])
        due = [id for _, id in islice(listed, min(n, bisect_right(listed, until, key=_by)))]
        return [rows.record(self._changed(rows, id, stored, {**add, "version": 1})) for id in due]

    async def _turn(self) -> None:
        await sleep(0)
        if not self._is_open:
            raise Unavailable("the store is closed")

    def _outcome(self, step: Step) -> tuple[Row | None, Row | None]:
        """What is there and what shall be there instead."""
        rows = step.rows
        there = self._kept[rows.kind].get(step.id)
        if step.by is not None:
            return there, _raised(rows, there or step.after or [], step.by)
        if step.before is None:
            if there is not None:
                raise Taken("id")
            return None, step.after
        at = rows.version_at
        if there is None or (at is not None and there[at] != step.before[at]):
            raise Stale
        return there, step.after

    def _changed(self, rows: Rows[Any], id: str, put: Mapping[str, Any], add: Mapping[str, int]) -> Row:
        before = self._kept[rows.kind][id]
        after = _raised(rows, before, add)
        for name, value in put.items():
            after[rows.place[name]] = value
        self._move(rows, before, after)
        return after

    def _move(self, rows: Rows[Any], before: Row | None, after: Row | None) -> None:
        """Put ``after`` where ``before`` is, in the dictionary, the keys and the lists; Taken changes nothing."""
        kind, id = rows.kind, (after or before or [])[rows.id_at]
        keys, orders = _index(rows)
        for key in keys:
            value = after and key.values(after)
            if value and self._keys.get((kind, key.name, value), id) != id:
                raise Taken(key.name)
        for key in keys:
            if before and (value := key.values(before)):
                del self._keys[kind, key.name, value]
        for key in keys:
            if after and (value := key.values(after)):
                self._keys[kind, key.name, value] = id
        for order in orders:
            was, shall = before and order.values(before), after and order.values(after)
            if was == shall:
                continue
            if was:
                listed = self._lists[kind, order.name, was[:-1]]
                del listed[bisect_left(listed, (was[-1], id))]
            if shall:
                insort(self._lists[kind, order.name, shall[:-1]], (shall[-1], id))
        if after is None:
            del self._kept[kind][id]
        else:
            self._kept[kind][id] = after


class _Key(NamedTuple):
    name: str
    values: Any


@cache
def _index(rows: Rows[Any]) -> tuple[list[_Key], list[_Key]]:
    """The readers of each unique key, and of each order: its `within` and then its `by`."""

    def fields(order: Order) -> tuple[str, ...]:
        return (*order.within, order.by)

    spec = rows.spec
    return (
        [_Key(name, rows.reader(names)) for name, names in spec.unique.items()],
        [_Key(name, rows.reader(fields(order))) for name, order in spec.orders.items()],
    )


def _raised(rows: Rows[Any], row: Row, by: Mapping[str, int]) -> Row:
    after = list(row)
    for name, amount in by.items():
        after[rows.place[name]] += amount
    return after


def _by(listed: tuple[Any, str]) -> Any:
    return listed[0]
