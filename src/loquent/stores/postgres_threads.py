"""The two threads of PostgreSQL: one writes, in groups of one transaction, one reads, in pipelines of one round trip.

Groups of several processes would deadlock if they took rows in any order; so a group takes them in one order: new rows,
then changed ones by statement and id, then counters by id. A group that cannot be done together is done one by one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
import psycopg
from psycopg import errors
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from loquent.domain.errors import Invalid, LoquentError, Stale, Taken
from loquent.domain.outages import Outage
from loquent.stores.groups import grouped
from loquent.stores.lane import Job, Lane
from loquent.stores.lanes import Lanes
from loquent.stores.postgres_link import away, close, connection, hang_up, is_open, said
from loquent.stores.sql import Call
from loquent.stores.sql_statements import KEYS

TRIES = 3  # of a transaction that met another one
PASSING = (errors.DeadlockDetected, errors.SerializationFailure)
READS, WRITES = "reads", "writes"

encode = msgspec.json.Encoder().encode


class Threads(Lanes[psycopg.Connection[Any]]):
    """The Driver of PostgreSQL."""

    dialect: Dialect = PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]  # SQLAlchemy's own

    def __init__(self, url: str, patience: float, outage: Outage) -> None:
        super().__init__("postgres")
        self._url, self._patience, self._outage = url, patience, outage

    async def _done(self, lane: Lane, calls: Sequence[Call]) -> Any:
        """Have it done. The server's own timeouts end what is slow; one that is frozen is hung up on from outside."""
        try:
            async with asyncio.timeout(self._patience):
                return await lane.do(calls)
        except TimeoutError:
            what, used = (WRITES, self._writer) if lane is self._writes else (READS, self._reader)
            hang_up(used)
            self._outage.gone(what, "it says nothing")
            raise away("it says nothing") from None

    def _write_group(self, group: list[Job]) -> None:
        try:
            if not is_open(self._writer):
                self._drop_writer()
            if self._writer is None:
                self._writer = connection(self._url)
            asks = [job for job in group if _asks(job)]
            writes = [job for job in group if not _asks(job)]
            if len(writes) < 2 or not _together(self._writer, writes):
                asks += writes
            for job in asks:
                _alone(self._writer, job)
            self._outage.back(WRITES)
        except BaseException as error:
            self._drop_writer()
            self._tell(WRITES, error)
            _fail(group, error)

    def _read_group(self, group: list[Job]) -> None:
        """All in one round trip; each statement sees what was committed when it began."""
        try:
            if not is_open(self._reader):
                self._drop_reader()
            if self._reader is None:
                self._reader = connection(self._url)
            reader = self._reader
            with reader.pipeline():
                cursors = [reader.execute(job.calls[0].sql, job.calls[0].values, prepare=True) for job in group]
            for job, cursor in zip(group, cursors, strict=True):
                job.result = cursor.fetchall()
            self._outage.back(READS)
        except BaseException as error:
            self._drop_reader()
            self._tell(READS, error)
            _fail(group, error)

    def _tell(self, what: str, error: BaseException) -> None:
        """The log hears more than the callers."""
        if isinstance(error, psycopg.Error):
            self._outage.gone(what, said(error))

    def _close(self, dropped: psycopg.Connection[Any]) -> None:
        close(dropped)

    def _is_open(self, used: psycopg.Connection[Any]) -> bool:
        return not used.closed


def _asks(job: Job) -> bool:
    """Whether it is one statement that answers with rows, or none at all."""
    return not job.calls or (len(job.calls) == 1 and not (job.calls[0].must or job.calls[0].adds or job.calls[0].sums))


def _together(writer: psycopg.Connection[Any], jobs: list[Job]) -> bool:
    """All in one transaction; False, with nothing done, where one of them has to be found out."""
    made = grouped(chain.from_iterable(job.calls for job in jobs))
    calls = [_at_once(sql, rows) for sql, rows in sorted(made.adds.items())]
    calls += sorted(made.rest, key=lambda call: (call.sql.split("WHERE")[0], str(call.values[-2:])))
    calls += [Call(sql, values) for (sql, _), values in sorted(made.bumps.items())]
    try:
        _transact(writer, calls)
    except (Stale, errors.IntegrityError, errors.DataError, *PASSING):
        return False
    return True


def _at_once(sql: str, rows: Sequence[Sequence[Any]]) -> Call:
    """Many rows of one INSERT as a single value: to write them as JSON costs a tenth of giving each field by itself."""
    statement, names = _of_json(sql)
    return Call(statement, (encode([dict(zip(names, row, strict=True)) for row in rows]).decode(),))


@lru_cache(maxsize=256)
def _of_json(sql: str) -> tuple[str, tuple[str, ...]]:
    """An INSERT of one row as one of all the rows in a JSON text, and the names of its fields."""
    table, columns = re.fullmatch(r"INSERT INTO (\w+) \(([^)]*)\) VALUES .*", sql, re.DOTALL).groups()  # type: ignore[union-attr]  # it is one
    rows = f"json_populate_recordset(NULL::{table}, %s::json)"
    names = tuple(name.strip(' "') for name in columns.split(","))
    return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {rows}", names  # noqa: S608  (of our own statement)


def _alone(writer: psycopg.Connection[Any], job: Job) -> None:
    """One job in a transaction of its own, its counters last; again where it met another one."""
    calls = sorted(job.calls, key=lambda call: (bool(call.sums), str(call.values[0]) if call.sums else ""))
    for attempt in range(1, TRIES + 1):
        try:
            job.result = _transact(writer, calls)
        except Stale as error:
            job.error = error
        except (errors.IntegrityError, errors.DataError) as error:
            job.error = _conflict(error)
        except PASSING as error:
            if attempt < TRIES:
                continue
            job.error = away(str(error))
        return


def _transact(writer: psycopg.Connection[Any], calls: Sequence[Call]) -> list[Any]:
    """One transaction, in one round trip or two; the rows that the last statement gave. Raises with nothing done."""
    if not calls:
        writer.execute("SELECT 1")
        return []
    try:
        with writer.pipeline() as pipeline:
            writer.execute("BEGIN")
            cursors = [writer.execute(call.sql, call.values, prepare=True) for call in calls]
            if any(call.must for call in calls):
                pipeline.sync()
                for call, cursor in zip(calls, cursors, strict=True):
                    if call.must and cursor.rowcount != 1:
                        raise Stale
            writer.execute("COMMIT")
        last = cursors[-1]
        return last.fetchall() if last.description else []
    except (Stale, errors.IntegrityError, errors.DataError, *PASSING):
        writer.execute("ROLLBACK")
        raise


def _conflict(error: psycopg.Error) -> LoquentError:
    """Taken, by the name of the index that says so: users_username, users_pkey."""
    table, index = error.diag.table_name or "", error.diag.constraint_name or ""
    names = {"id", *(name for (of, _), name in KEYS.items() if of == table)}
    name = "id" if index == f"{table}_pkey" else index.removeprefix(f"{table}_")
    if isinstance(error, errors.UniqueViolation) and name in names:
        return Taken(name)
    return Invalid(f"the store does not take this: {error.diag.message_primary}")


def _fail(group: list[Job], error: BaseException) -> None:
    """Tell every caller of a group: that the database is away, or of a fault of ours as it is."""
    for job in group:
        if job.result is None and job.error is None:
            job.error = away(type(error).__name__) if isinstance(error, psycopg.Error) else error
