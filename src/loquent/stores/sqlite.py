"""SQLite: one writer thread that groups waiting writes in a transaction, one reader thread that groups reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from loquent.domain.errors import Invalid, LoquentError, Misconfigured, Stale, Taken, Unavailable
from loquent.stores import Checked
from loquent.stores.lane import Job, Lane
from loquent.stores.sql import Call, Sql
from loquent.stores.sql_statements import KEYS

PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "FULL",  # an acknowledged write outlives a power cut
    "busy_timeout": "5000",  # milliseconds
    "foreign_keys": "ON",
    "temp_store": "MEMORY",
}
OPTIONS = ("busy_timeout", "max_page_count", "cache_size", "mmap_size", "wal_autocheckpoint")
"""What a URL may set: sqlite:///loquent.db?busy_timeout=1000. ``max_page_count`` bounds the size of the file."""


def connection(path: Path, pragmas: Mapping[str, str]) -> sqlite3.Connection:
    """A connection for one thread that leaves BEGIN and COMMIT to us."""
    opened = sqlite3.connect(path, isolation_level=None, cached_statements=512, check_same_thread=False)
    try:
        # the wait for a lock comes first: changing the journal's mode needs one
        for name, value in sorted(pragmas.items(), key=lambda pragma: pragma[0] != "busy_timeout"):
            opened.execute(f"PRAGMA {name}={value}").fetchall()
    except sqlite3.Error:
        opened.close()
        raise
    return opened


class Threads:
    """The Driver of SQLite: a writer and a reader, each a thread with a connection of its own.

    A connection that met an error which is not ours is dropped, and the next group makes a new one: so a database
    that was locked, full or away heals by itself.
    """

    dialect = SQLiteDialect_pysqlite(paramstyle="qmark")

    def __init__(self, path: Path, pragmas: Mapping[str, str]) -> None:
        self._path, self._pragmas = path, pragmas
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._writes = Lane("sqlite-writer", self._write_group, self._drop_writer)
        self._reads = Lane("sqlite-reader", self._read_group, self._drop_reader)

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
        rows: list[Any] = await self._reads.do((call,))
        return rows

    async def write(self, calls: Sequence[Call]) -> None:
        """See Driver. No calls at all: only see whether the lock can be had."""
        await self._writes.do(calls)

    async def take(self, call: Call) -> list[Any]:
        """See Driver."""
        rows: list[Any] = await self._writes.do((call,))
        return rows

    def _write_group(self, group: list[Job]) -> None:
        """One transaction for all; each job's own conflict undoes that job alone."""
        try:
            if self._writer is None:
                self._writer = connection(self._path, self._pragmas)
            writer = self._writer
            execute = writer.execute
            execute("BEGIN IMMEDIATE")
            for job in group:
                if len(job.calls) < 2:  # a statement that fails undoes itself
                    _attempt(writer, job)
                    continue
                execute("SAVEPOINT one")
                _attempt(writer, job)
                if job.error is not None:
                    execute("ROLLBACK TO one")
                execute("RELEASE one")
            execute("COMMIT")
        except sqlite3.Error as error:
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
                job.result = execute(*job.calls[0][:2]).fetchall()
            execute("COMMIT")
        except sqlite3.Error as error:
            self._drop_reader()
            _fail(group, error)

    def _drop_writer(self) -> None:
        dropped, self._writer = self._writer, None
        _close(dropped)

    def _drop_reader(self) -> None:
        dropped, self._reader = self._reader, None
        _close(dropped)


def _attempt(writer: sqlite3.Connection, job: Job) -> None:
    """Make the calls of one job; what is its own fault is its error, everything else is the group's."""
    try:
        for sql, values, must in job.calls:
            cursor = writer.execute(sql, values)
            if must and cursor.rowcount != 1:
                raise Stale
            job.result = cursor.fetchall() if cursor.description else None
    except Stale as error:
        job.error = error
    except (sqlite3.IntegrityError, sqlite3.DataError) as error:
        if not writer.in_transaction:  # SQLite has undone the whole group: nothing more may run outside of it
            raise
        job.error = _conflict(error)


def _conflict(error: sqlite3.Error) -> LoquentError:
    """Taken, from ``UNIQUE constraint failed: users.tenant, users.username``."""
    said, _, columns = str(error).partition(": ")
    if said != "UNIQUE constraint failed":
        return Invalid(f"the store does not take this: {error}")
    named = [column.strip().split(".") for column in columns.split(",")]
    return Taken(KEYS[named[0][0], tuple(column[-1] for column in named)])


def _fail(group: list[Job], error: sqlite3.Error) -> None:
    for job in group:
        job.error = _away(error)


def _away(error: sqlite3.Error) -> Unavailable:
    return Unavailable(f"the database cannot be used now: {error}", retry_after=1)


def _close(dropped: sqlite3.Connection | None) -> None:
    """Close without a word: what was not committed is undone by it."""
    if dropped is not None:
        try:
            dropped.close()
        except sqlite3.Error:
            return


class Sqlite(Sql):
    """``sqlite:///loquent.db`` (from the working directory) or ``sqlite:////var/lib/loquent.db``."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self._path, options = _parts(url, data_dir)
        self._pragmas = {**PRAGMAS, **options}
        super().__init__(Threads(self._path, self._pragmas))

    async def open(self) -> None:
        """See Store; an empty or older database is brought up to date first."""
        await self._driver.open()
