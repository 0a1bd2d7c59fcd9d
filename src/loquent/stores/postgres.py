"""PostgreSQL: one thread that writes, in groups of one transaction, and one that reads, in pipelines of one round trip.

Groups of several processes would deadlock if they took rows in any order; so a group takes them in one order: new rows,
then changed ones by statement and id, then counters by id. A group that cannot be done together is done one by one.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Dialect, create_engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from loquent.domain.errors import Invalid, LoquentError, Misconfigured, Stale, Taken, Unavailable
from loquent.domain.outages import Outage
from loquent.ports.outages import database_outage
from loquent.stores import Checked, migrations
from loquent.stores.groups import grouped
from loquent.stores.lane import Job, Lane
from loquent.stores.migrations import Schema
from loquent.stores.sql import Call, Sql
from loquent.stores.sql_statements import KEYS

CONNECT = {
    "application_name": "loquent",
    "connect_timeout": "5",  # seconds
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",  # milliseconds
}
SESSION = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "synchronous_commit": "on",  # an acknowledged write outlives a power cut
    "timezone": "UTC",
}
PATIENCE = 15.0  # seconds after which a server that says nothing at all is given up
READY = 2.0  # seconds that `ready` waits
PREPARED = 512  # statements that a connection keeps prepared
TRIES = 3  # of a transaction that met another one
MIGRATION_LOCK = 0x6C6F7175656E74  # "loquent": who migrates holds it
MIGRATION = "120s"  # that a process waits while another migrates, and that one step may take
STEP = "1s"  # that a migration waits for a table at a time: whoever else wants it meanwhile waits behind it
STEP_TRIES, STEP_PAUSE = 40, 2.0  # how often it waits, and the seconds between, in which the others have their turn
PASSING = (errors.DeadlockDetected, errors.SerializationFailure)
LASTING = (errors.InvalidPassword, errors.InvalidAuthorizationSpecification, errors.InvalidCatalogName)


encode = msgspec.json.Encoder().encode
READS, WRITES = "reads", "writes"


class Threads:
    """The Driver of PostgreSQL. A connection that met an error which is not a caller's is dropped and made anew."""

    dialect: Dialect = PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]  # SQLAlchemy's own

    def __init__(self, url: str, patience: float, outage: Outage) -> None:
        self._url, self._patience, self._outage = url, patience, outage
        self._writer: psycopg.Connection[Any] | None = None
        self._reader: psycopg.Connection[Any] | None = None
        self._writes = Lane("postgres-writer", self._write_group, self._drop_writer)
        self._reads = Lane("postgres-reader", self._read_group, self._drop_reader)

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
        rows: list[Any] = await self._done(self._reads, (call,), lambda: self._reader)
        return rows

    async def write(self, calls: Sequence[Call]) -> None:
        """See Driver."""
        await self._done(self._writes, calls, lambda: self._writer)

    async def take(self, call: Call) -> list[Any]:
        """See Driver."""
        rows: list[Any] = await self._done(self._writes, (call,), lambda: self._writer)
        return rows

    def figures(self) -> Mapping[str, float]:
        """See Watched."""
        used = (self._writer, self._reader)
        return {
            "reads_waiting": self._reads.waiting,
            "writes_waiting": self._writes.waiting,
            "connections": sum(each is not None and not each.closed for each in used),
        }

    async def _done(self, lane: Lane, calls: Sequence[Call], used: Callable[[], psycopg.Connection[Any] | None]) -> Any:
        """Have it done. The server's own timeouts end what is slow; one that is frozen is hung up on from outside."""
        try:
            async with asyncio.timeout(self._patience):
                return await lane.do(calls)
        except TimeoutError:
            _hang_up(used())
            self._outage.gone(WRITES if lane is self._writes else READS, "it says nothing")
            raise _away("it says nothing") from None

    def _write_group(self, group: list[Job]) -> None:
        try:
            if not _is_open(self._writer):
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
            if not _is_open(self._reader):
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
            self._outage.gone(what, _said(error))

    def _drop_writer(self) -> None:
        dropped, self._writer = self._writer, None
        _close(dropped)

    def _drop_reader(self) -> None:
        dropped, self._reader = self._reader, None
        _close(dropped)


def connection(url: str, **session: str) -> psycopg.Connection[Any]:
    """A connection for one thread that leaves BEGIN and COMMIT to us."""
    known = conninfo_to_dict(url)
    wanted = " ".join(f"-c {name}={value}" for name, value in {**SESSION, **session}.items())
    options = f"{wanted} {known.pop('options', '')}".strip()
    opened = psycopg.connect(**{**CONNECT, **known, "options": options}, autocommit=True)  # type: ignore[arg-type]
    opened.prepare_threshold, opened.prepared_max = 1, PREPARED
    return opened


def _is_open(used: psycopg.Connection[Any] | None) -> bool:
    """Whether it can be used: a server that was restarted while nothing was asked has said goodbye on it."""
    if used is None or used.closed:
        return False
    heard = select.poll()
    heard.register(used.pgconn.socket, select.POLLIN)
    try:
        while heard.poll(0):
            used.pgconn.consume_input()
    except psycopg.Error:
        return False
    return True


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
            job.error = _away(str(error))
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
            job.error = _away(type(error).__name__) if isinstance(error, psycopg.Error) else error


def _away(why: str) -> Unavailable:
    return Unavailable(f"the database cannot be used now: {why}", retry_after=1)


def _said(error: BaseException) -> str:
    """The first line, which names no password; where a server was not reached, it names host and port."""
    return re.sub(r"password=\S+", "password=…", str(error).strip().partition("\n")[0])[:200]


def _hang_up(used: psycopg.Connection[Any] | None) -> None:
    """From another thread than the one that waits in it: end both directions, so that it wakes with an error."""
    if used is not None and not used.closed:
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(used.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def _close(dropped: psycopg.Connection[Any] | None) -> None:
    if dropped is not None:
        with suppress(psycopg.Error):
            dropped.close()


class Postgres(Sql):
    """``postgresql://user:password@host:5432/database``, with libpq's own options behind a question mark.

    One more option is ours: ``patience``, seconds after which a server that says nothing at all is given up.
    Any number of processes share it. Times are of the processes' clocks, which must agree within a lease.
    """

    def __init__(self, url: str, data_dir: Path) -> None:
        self._url, patience = _parts(url)
        try:
            self._name = conninfo_to_dict(self._url).get("dbname") or "the database"
        except psycopg.ProgrammingError as error:
            takes = "postgresql://user:password@host:port/database"
            if "query parameter" in _said(error):  # else its words may hold a piece of the password
                raise Misconfigured(f"LOQUENT_STORE: {_said(error)}") from None
            signs = "signs like / @ # % in a password are written %2F %40 %23 %25"
            raise Misconfigured(f"LOQUENT_STORE cannot be read; it takes {takes}, and {signs}") from None
        self.outage = database_outage()
        super().__init__(Threads(self._url, patience, self.outage))

    async def open(self) -> None:
        """See Store; an empty or older schema is brought up to date first."""
        await self.upgrade()
        await self._driver.open()

    async def close(self) -> None:
        """See Store."""
        await self._driver.close()

    async def ready(self) -> None:
        """See Store: a read and a write's connection."""
        try:
            async with asyncio.timeout(READY):
                await self._driver.read(Call("SELECT 1", ()))
                await self._driver.write(())
        except TimeoutError:
            raise Unavailable("the database is too slow now", retry_after=1) from None

    async def upgrade(self) -> None:
        """Bring an empty or older schema up to date, in one transaction; who comes second finds it done."""
        await asyncio.to_thread(self._upgrade)

    async def check(self) -> Checked:
        """The revision."""
        return await asyncio.to_thread(self._check)

    def _upgrade(self) -> None:
        with self._told():
            with connection(self._url) as opened:
                found = _schema(opened)
            if not found.is_usable(str(self._name)):
                self._migrate()

    def _migrate(self) -> None:
        patient = {"lock_timeout": MIGRATION, "statement_timeout": MIGRATION}

        def connect() -> psycopg.Connection[Any]:
            opened = connection(self._url, **patient)
            opened.autocommit = False
            return opened

        engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
        try:
            with engine.begin() as begun:
                begun.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
                begun.exec_driver_sql(f"SET LOCAL lock_timeout = '{STEP}'")
                self._step(begun)
        except DBAPIError as error:
            raise error.orig or error from None

    def _step(self, begun: Connection) -> None:
        """Migrate, again and again where somebody reads a table for long: a dump would have everybody wait for it."""
        for left in reversed(range(STEP_TRIES)):
            try:
                with begun.begin_nested():
                    migrations.upgrade(begun, str(self._name))
                return
            except DBAPIError as error:
                if not left or not isinstance(error.orig, errors.LockNotAvailable):
                    raise
                time.sleep(STEP_PAUSE)

    def _check(self) -> Checked:
        with self._told(), connection(self._url) as opened:
            return migrations.standing(_schema(opened))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors while nothing runs yet, as ours: a wrong name or password will not pass, a server's absence will."""
        try:
            yield
        except psycopg.Error as error:
            if isinstance(error, LASTING) or "authentication failed" in str(error) or "does not exist" in str(error):
                raise Misconfigured(f"the database {self._name} cannot be used: {_said(error)}") from None
            raise _away(_said(error)) from error


def _parts(url: str) -> tuple[str, float]:
    """The URL as libpq takes it, and our patience. Raises Misconfigured."""
    parts = urlsplit(re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", url))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    patience = options.pop("patience", str(PATIENCE))
    try:
        seconds = float(patience)
        if not 0 < seconds <= 600:
            raise ValueError
    except ValueError:
        raise Misconfigured(f"LOQUENT_STORE holds patience={patience}; it takes seconds, up to 600") from None
    return urlunsplit(parts._replace(query=urlencode(options))), seconds


def _schema(opened: psycopg.Connection[Any]) -> Schema:
    """What the database says of its schema, read without Alembic."""
    known = opened.execute("SELECT to_regclass('alembic_version')").fetchone()
    if known is None or known[0] is None:
        return Schema()
    found = opened.execute("SELECT * FROM alembic_version").fetchone()
    return Schema(*found[:2]) if found else Schema()
