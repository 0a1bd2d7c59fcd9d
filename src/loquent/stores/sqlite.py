"""SQLite: one writer thread that groups waiting writes in a transaction, one reader thread that groups reads."""

from __future__ import annotations

import os
import sqlite3
from asyncio import timeout, to_thread
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy import create_engine, event
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from loquent.domain.errors import Invalid, LoquentError, Misconfigured, OutOfSpace, Stale, Taken, Unavailable
from loquent.stores import Checked, migrations
from loquent.stores.groups import grouped, of_rows
from loquent.stores.lane import Job, Lane
from loquent.stores.migrations import HEAD, Schema
from loquent.stores.sql import Call, Sql
from loquent.stores.sql_statements import KEYS

PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "FULL",  # an acknowledged write outlives a power cut
    "busy_timeout": "5000",  # milliseconds
    "foreign_keys": "ON",
    "temp_store": "MEMORY",
    "cache_size": "-16000",  # KiB, of each connection
    "wal_autocheckpoint": "4000",  # pages: a page that changes often is copied to the database less often
}
OPTIONS = ("busy_timeout", "max_page_count", "cache_size", "mmap_size", "wal_autocheckpoint")
"""What a URL may set: sqlite:///loquent.db?busy_timeout=1000. ``max_page_count`` bounds the size of the file."""

OWN_FAULTS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What one caller's values cause, beside which the others of a group go on."""
LASTING = ("SQLITE_CANTOPEN", "SQLITE_NOTADB", "SQLITE_READONLY", "SQLITE_AUTH", "SQLITE_PERM")
MIGRATION = 60  # seconds that a process waits while another migrates
MOST_ROWS = 32  # in one INSERT; SQLite takes 32,766 values
READY = 2.0  # seconds that `ready` waits


def connection(path: Path, pragmas: Mapping[str, str]) -> sqlite3.Connection:
    """A connection for one thread that leaves BEGIN and COMMIT to us. A new file is its owner's alone to read."""
    with suppress(OSError):  # SQLite itself says why it cannot be made
        # only one that is not there yet: to close a file that SQLite has open drops the locks of this whole process
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    # the module looks for a way to keep each None and bool, at a microsecond a row, unless it is told one
    sqlite3.register_adapter(type(None), {}.get)  # type: ignore[arg-type]  # its stub knows no None
    sqlite3.register_adapter(bool, int)
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

    def figures(self) -> Mapping[str, float]:
        """See Watched."""
        used = (self._writer, self._reader)
        return {
            "reads_waiting": self._reads.waiting,
            "writes_waiting": self._writes.waiting,
            "connections": sum(each is not None for each in used),
        }

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

    def _drop_writer(self) -> None:
        dropped, self._writer = self._writer, None
        _close(dropped)

    def _drop_reader(self) -> None:
        dropped, self._reader = self._reader, None
        _close(dropped)


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
        job.error = _away(error) if isinstance(error, sqlite3.Error) else error


def _away(error: sqlite3.Error) -> Unavailable:
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
        return OutOfSpace("the disk of the database is full")
    return Unavailable(f"the database cannot be used now: {error}", retry_after=1)


def _close(dropped: sqlite3.Connection | None) -> None:
    """Undo and close without a word. Closing alone may leave the lock held, while a cursor still lives somewhere."""
    if dropped is not None:
        with suppress(sqlite3.Error):
            dropped.rollback()
        with suppress(sqlite3.Error):
            dropped.close()


class Sqlite(Sql):
    """``sqlite:///loquent.db`` (from the working directory) or ``sqlite:////var/lib/loquent.db``.

    One process writes at a time; several may have it open. Not for a network file system.
    """

    def __init__(self, url: str, data_dir: Path) -> None:
        self._path, options = _parts(url)
        self._data_dir = data_dir
        self._pragmas = {**PRAGMAS, **options}
        super().__init__(Threads(self._path, self._pragmas))

    async def open(self) -> None:
        """See Store; an empty or older database is brought up to date first."""
        await self.upgrade()
        await self._driver.open()

    async def close(self) -> None:
        """See Store."""
        await self._driver.close()

    async def ready(self) -> None:
        """See Store: a read, and the lock that a write needs."""
        try:
            async with timeout(READY):
                await self._driver.read(Call("SELECT 1", ()))
                await self._driver.write(())
        except TimeoutError:
            raise Unavailable("the database is too slow now", retry_after=1) from None

    async def upgrade(self) -> None:
        """Bring an empty or older database up to date, in one transaction that other processes wait for."""
        await to_thread(self._upgrade)

    async def check(self) -> Checked:
        """The revision, and what SQLite itself says of the file."""
        return await to_thread(self._check)

    def _upgrade(self) -> None:
        if self._path.parent == self._data_dir:
            self._data_dir.mkdir(parents=True, exist_ok=True)
        with self._told(), closing(connection(self._path, self._pragmas)) as opened:
            found = _schema(opened)
        if not found.is_usable(str(self._path)):
            with self._told():
                self._migrate()

    def _migrate(self) -> None:
        """Under the database's own write lock: who comes second finds it done."""
        patient = {**self._pragmas, "busy_timeout": str(MIGRATION * 1000)}
        engine = create_engine("sqlite://", creator=lambda: connection(self._path, patient), poolclass=NullPool)
        event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
        try:
            with engine.begin() as begun:
                migrations.upgrade(begun, str(self._path))
        except DBAPIError as error:
            raise error.orig or error from None

    def _check(self) -> Checked:
        if not self._path.exists():
            return Checked(None, HEAD, (f"{self._path} is not there yet: `loquent store upgrade` makes it",))
        with self._told(), closing(connection(self._path, {"busy_timeout": "5000", "query_only": "ON"})) as opened:
            try:
                said = [line for (line,) in opened.execute("PRAGMA integrity_check(20)") if line != "ok"]
                found = _schema(opened)
            except sqlite3.DatabaseError as error:
                if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
                    raise
                return Checked(None, HEAD, (f"{self._path} is damaged ({error}): restore it from a backup",))
        return migrations.standing(found, *said)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors while nothing runs yet, as ours: a wrong path or file will not pass, a lock will."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith(LASTING):
                raise Misconfigured(f"the database {self._path} cannot be used: {error}") from error
            raise _away(error) from error


def _schema(opened: sqlite3.Connection) -> Schema:
    """What the database says of its schema, read without Alembic."""
    known = opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    found = opened.execute("SELECT * FROM alembic_version").fetchone() if known else None
    return Schema(*found[:2]) if found else Schema()


def _parts(url: str) -> tuple[Path, dict[str, str]]:
    """The file and the options that a URL names; Misconfigured where it cannot be read."""
    _, slashes, rest = url.partition(":///")
    name, _, query = rest.partition("?")
    if not slashes or name in ("", ":memory:"):
        raise Misconfigured(f"LOQUENT_STORE holds {url!r}; it takes sqlite:///FILE, or memory: to keep nothing")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option, value in options.items():
        if option not in OPTIONS or not value.removeprefix("-").isdigit():
            raise Misconfigured(
                f"LOQUENT_STORE holds {option}={value}; it takes whole numbers for {', '.join(OPTIONS)}"
            )
    return Path(name).absolute(), options
