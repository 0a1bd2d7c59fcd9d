"""The two threads of SQLite: one writes, what waits grouped in a transaction, one reads, each group in a snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from loquent.domain.errors import Invalid, LoquentError, Stale, Taken
from loquent.stores.groups import grouped, of_rows
from loquent.stores.lane import Job
from loquent.stores.lanes import Lanes
from loquent.stores.sql_statements import KEYS
from loquent.stores.sqlite_link import away, close, connection

OWN_FAULTS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What one caller's values cause, beside which the others of a group go on."""
MOST_ROWS = 32  # in one INSERT; SQLite takes 32,766 values


class Threads(Lanes[sqlite3.Connection]):
    """The Driver of SQLite."""

    dialect = SQLiteDialect_pysqlite(paramstyle="qmark")

    def __init__(self, path: Path, pragmas: Mapping[str, str]) -> None:
        super().__init__("sqlite")
        self._path, self._pragmas = path, pragmas

    def _write_group(self, group: list[Job]) -> None:
        """One transaction for all, in which each job's own conflict undoes that job alone."""
        try:
            if self._writer is None:
                self._writer = connection(self._path, self._pragmas)
            if not _transact(self._writer, group, careful=False):
                _transact(self._writer, group, careful=True)
        except BaseException as error:
            self._drop_writer()
            _fail(group, error)

    def _read_group(self, group: list[Job]) -> None:
        """One snapshot for all: taken after each of them asked, so that one's own writes are in it."""
        try:
            if self._reader is None:
                self._reader = connection(self._path, {**self._pragmas, "query_only": "ON"})
            execute = self._reader.execute
            execute("BEGIN")
            for job in group:
                job.result = execute(job.calls[0].sql, job.calls[0].values).fetchall()
            execute("COMMIT")
        except BaseException as error:
            self._drop_reader()
            _fail(group, error)

    def _close(self, dropped: sqlite3.Connection) -> None:
        close(dropped)


def _transact(writer: sqlite3.Connection, group: list[Job], *, careful: bool) -> bool:
    """Do the group and commit; False, with nothing done, where one job has to be undone and savepoints were not set.

    Savepoints cost a copy of each page that is changed, and conflicts in the midst of a write are rare: so a group is
    tried without, and done again with them where that was wrong. A job that fails at its first call undoes itself.
    """
    cursor = writer.cursor()
    execute = cursor.execute
    execute("BEGIN IMMEDIATE")
    one_by_one = careful or len(group) == 1  # of which there is nothing to put together
    if not one_by_one:
        try:
            _in_bulk(cursor, group)
        except (*OWN_FAULTS, OverflowError):  # somebody's own: found out by doing each by itself
            if not writer.in_transaction:
                raise
            execute("ROLLBACK")
            return False
    for job in group:
        job.error = None
        if careful:
            execute("SAVEPOINT one")
        try:
            for call in job.calls:
                if one_by_one or not (call.adds or call.sums):
                    execute(call.sql, call.values)
                    if call.must and cursor.rowcount != 1:
                        raise Stale
            if cursor.description:
                job.result = cursor.fetchall()
        except Stale as error:
            job.error = error
        except OWN_FAULTS as error:
            if not writer.in_transaction:  # SQLite undid the whole group: nothing more may run outside of it
                raise
            job.error = _conflict(error)
        if job.error is not None and len(job.calls) > 1 and not careful:  # some of it may have been done in bulk
            execute("ROLLBACK")
            return False
        if careful:
            if job.error is not None:
                execute("ROLLBACK TO one")
            execute("RELEASE one")
    execute("COMMIT")
    return True


def _in_bulk(cursor: sqlite3.Cursor, group: list[Job]) -> None:
    """All plain adds of one kind as one statement, all bumps of one record as one.

    Around each statement the interpreter is given away and waited for: under load that costs more than the statement.
    """
    made = grouped(chain.from_iterable(job.calls for job in group))
    for sql, rows in made.adds.items():
        at = 0
        while at < len(rows):
            n = min(MOST_ROWS, len(rows) - at)
            cursor.execute(of_rows(sql, n), list(chain.from_iterable(rows[at : at + n])))
            at += n
    for (sql, _), values in made.bumps.items():
        cursor.execute(sql, values)


def _conflict(error: sqlite3.Error) -> LoquentError:
    """Taken, from ``UNIQUE constraint failed: users.tenant, users.username``."""
    said, _, columns = str(error).partition(": ")
    if said != "UNIQUE constraint failed":
        return Invalid(f"the store does not take this: {error}")
    named = [column.strip().split(".") for column in columns.split(",")]
    return Taken(KEYS[named[0][0], tuple(column[-1] for column in named)])


def _fail(group: list[Job], error: BaseException) -> None:
    """Tell every caller of a group: that the database is away, or of a fault of ours as it is."""
    for job in group:
        job.error = away(error) if isinstance(error, sqlite3.Error) else error
