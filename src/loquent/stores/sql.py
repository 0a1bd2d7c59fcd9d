"""The six verbs in SQL, over a driver: what is asked of the database, not how the asking travels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from sqlalchemy import Dialect

from loquent.domain.fixed import fixed
from loquent.domain.log import CONTENT, Log
from loquent.ports.store import COUNT_CAP, Change, Page, Position
from loquent.stores.rows import Row, Rows, Step, check_position, check_values, put_and_added, rows_of, steps
from loquent.stores.sql_statements import Statements

R = TypeVar("R")
Amounts = Callable[[Mapping[str, int]], tuple[int, ...]]
log, content = Log("loquent.sql"), Log(CONTENT)

MOST_IDS = 256  # in one SELECT


@fixed
class Call:
    """One statement with its values. ``must``: one row is changed by it, or the write is Stale.

    What a driver may put together with its like: ``adds``, a plain INSERT of one row; ``sums``, a bump of the record
    whose id is the first value, with the places of each counter and of the amount that is added to it.
    """

    sql: str
    values: Sequence[Any]
    must: bool = False
    adds: bool = False
    sums: tuple[tuple[int, int], ...] = ()


@fixed
class Insert:
    """An INSERT without the fields that have been None in every record so far.

    A third of a generation is, and a database's module looks at each value, whatever it is.
    """

    sql: str
    absent: frozenset[int]  # the places that are left out
    of_absent: Callable[[Row], tuple[Any, ...]]
    nothing: tuple[None, ...]  # what ``of_absent`` gives where the row may be written so
    of_there: Callable[[Row], tuple[Any, ...]]


class Driver(Protocol):
    """How statements reach one kind of database: a backend is one of these and a row in SCHEMES.

    Every method raises Unavailable where the database is away, and ``write`` and ``take`` raise Taken for a unique
    key. A driver groups what waits where that helps (SQLite), or does each write in a transaction of its own, bumps
    last and sorted by id (PostgreSQL, which would deadlock otherwise).
    """

    @property
    def dialect(self) -> Dialect:
        """What statements are compiled for; values go in by position."""
        ...

    async def open(self) -> None:
        """Start what is needed; connections may be made when first used."""

    async def close(self) -> None:
        """Finish what waits, then let go."""

    async def read(self, call: Call) -> list[Any]:
        """The rows that a SELECT gives; it sees every write that returned before."""
        ...

    async def write(self, calls: Sequence[Call]) -> None:
        """All of these in one transaction, durable on return; raises Taken or Stale, with nothing done."""

    async def take(self, call: Call) -> list[Any]:
        """One UPDATE … RETURNING, durable on return."""
        ...

    def figures(self) -> Mapping[str, float]:
        """See Watched: reads_waiting, writes_waiting, connections."""
        ...


class Told:
    """A Driver that logs each statement and how many rows it gave or changed; its values only with the content."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.dialect = driver.dialect
        self.open, self.close, self.figures = driver.open, driver.close, driver.figures

    async def read(self, call: Call) -> list[Any]:
        """See Driver."""
        return _told(call, await self._driver.read(call))

    async def write(self, calls: Sequence[Call]) -> None:
        """See Driver."""
        await self._driver.write(calls)
        for call in calls:
            _told(call, [call])  # each changes one row, or the write had raised

    async def take(self, call: Call) -> list[Any]:
        """See Driver."""
        return _told(call, await self._driver.take(call))


def _told(call: Call, rows: list[Any]) -> list[Any]:
    is_shown = content.says(logging.INFO) and "password" not in call.sql  # no log is for those, hashed or not
    values = {"values": list(call.values)} if is_shown else {}
    log.debug("statement", sql=call.sql, rows=len(rows), **values)
    return rows


class Sql:
    """A Store over a Driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = Told(driver) if log.says(logging.DEBUG) else driver  # asked once: it costs nothing when off
        self._statements = Statements(driver.dialect)
        self._inserts: dict[Rows[Any], Insert] = {}
        self._bumps: dict[Any, tuple[str, Amounts, tuple[tuple[int, int], ...]]] = {}

    def figures(self) -> Mapping[str, float]:
        """See Watched."""
        return self._driver.figures()

    async def get(self, kind: type[R], *ids: str) -> list[R]:
        """See Store."""
        check_values(*ids)
        rows = rows_of(kind)
        if len(ids) == 1:
            statement = self._statements.get(rows, 1)
            return [rows.record(row) for row in await self._driver.read(Call(statement.sql, ids))]
        found: dict[str, R] = {}
        for start in range(0, len(ids), MOST_IDS):
            some = ids[start : start + MOST_IDS]
            some += some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))  # so that few sizes are compiled
            statement = self._statements.get(rows, len(some))
            for row in await self._driver.read(Call(statement.sql, some)):
                found[row[rows.id_at]] = rows.record(row)
        return [found[id] for id in ids if id in found]

    async def find(self, kind: type[R], key: str, at: Mapping[str, Any]) -> R | None:
        """See Store."""
        rows = rows_of(kind)
        values = rows.unique(key, at)
        found = await self._driver.read(Call(self._statements.find(rows, key).sql, values))
        return rows.record(found[0]) if found else None

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
        statement = self._statements.page(
            rows, order, upward=declared.desc == back, after=after is not None, until=until is not None
        )
        named = dict(zip(declared.within, values, strict=True), until=until, limit=limit + 1)
        if after is not None:
            named.update(after=after.value, after_id=after.id)
        found = await self._driver.read(Call(statement.sql, statement.values(named)))
        more = len(found) > limit
        items = [rows.record(row) for row in found[:limit]]
        return Page(items[::-1] if back else items, more)

    async def count(self, kind: type[R], order: str, at: Mapping[str, Any], *, cap: int = COUNT_CAP) -> int:
        """See Store."""
        rows = rows_of(kind)
        declared, values = rows.within(order, at)
        statement = self._statements.count(rows, order)
        named = dict(zip(declared.within, values, strict=True), limit=cap)
        found = await self._driver.read(Call(statement.sql, statement.values(named)))
        return int(found[0][0])

    async def write(self, *changes: Change) -> None:
        """See Store."""
        calls = [self._call(step) for step in steps(changes)]
        if calls:
            await self._driver.write(calls)

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
        declared, values = rows.within(order, at)
        stored = put_and_added(rows, put, add)
        check_values(until)
        statement = self._statements.take(rows, order, tuple(stored), tuple(add))
        named = dict(zip(declared.within, values, strict=True), until=until, limit=n)
        named.update({f"put_{name}": value for name, value in stored.items()})
        named.update({f"by_{name}": amount for name, amount in add.items()})
        found = await self._driver.take(Call(statement.sql, statement.values(named)))
        return [rows.record(row) for row in found]

    def _call(self, step: Step) -> Call:
        rows = step.rows
        if step.by is not None:
            return self._bump(rows, step.after or [], step.by)
        if step.before is None:
            return self._add(rows, step.after or [])
        same = [step.id] if rows.version_at is None else [step.id, step.before[rows.version_at]]
        if step.after is None:
            return Call(self._statements.remove(rows).sql, same, must=True)
        changed = tuple([at for at, value in enumerate(step.after) if value != step.before[at]])
        values = [step.after[at] for at in changed]
        return Call(self._statements.replace(rows, changed).sql, [*values, *same], must=True)

    def _add(self, rows: Rows[Any], row: Row) -> Call:
        insert = self._inserts.get(rows)
        if insert is None or insert.of_absent(row) != insert.nothing:
            insert = self._inserts[rows] = self._insert(rows, row, insert)
        return Call(insert.sql, insert.of_there(row), adds=True)

    def _insert(self, rows: Rows[Any], row: Row, before: Insert | None) -> Insert:
        """What leaves out no more than ``before``, and nothing of this row."""
        absent = [at for at, value in enumerate(row) if value is None and (before is None or at in before.absent)]
        there = [at for at in range(len(row)) if at not in absent]
        sql = self._statements.add(rows, tuple(rows.names[at] for at in there)).sql
        of_absent = itemgetter(*absent, *absent[:1]) if absent else lambda row: ()
        return Insert(sql, frozenset(absent), of_absent, of_absent([None] * len(row)), itemgetter(*there))

    def _bump(self, rows: Rows[Any], row: Row, by: Mapping[str, int]) -> Call:
        names = tuple(by)
        made = self._bumps.get((rows, names))
        if made is None:
            counters = sorted(names, key=rows.place.__getitem__)
            sums = tuple((rows.place[name], len(rows.names) + at) for at, name in enumerate(counters))
            sql = self._statements.bump(rows, tuple(counters)).sql
            made = self._bumps[rows, names] = sql, itemgetter(*counters, counters[0]), sums
        sql, amounts_of, sums = made
        row += amounts_of(by)
        row.pop()  # the first is asked for twice, so that it is a tuple for any number of counters
        for at, amount_at in sums:
            row[at] += row[amount_at]
        return Call(sql, row, sums=sums)
