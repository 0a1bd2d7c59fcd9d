"""PostgreSQL: opened, migrated while others use it, and told apart from what is no database of ours."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from loquent.domain.errors import Misconfigured, Unavailable
from loquent.ports.outages import database_outage
from loquent.stores import Checked, migrations
from loquent.stores.migrations import Schema
from loquent.stores.postgres_link import away, connection, said
from loquent.stores.postgres_threads import Threads
from loquent.stores.sql import Call, Sql

PATIENCE = 15.0  # seconds after which a server that says nothing at all is given up
READY = 2.0  # seconds that `ready` waits
MIGRATION_LOCK = 0x6C6F7175656E74  # "loquent": who migrates holds it
MIGRATION = "120s"  # that a process waits while another migrates, and that one step may take
STEP = "1s"  # that a migration waits for a table at a time: whoever else wants it meanwhile waits behind it
STEP_TRIES, STEP_PAUSE = 40, 2.0  # how often it waits, and the seconds between, in which the others have their turn
LASTING = (errors.InvalidPassword, errors.InvalidAuthorizationSpecification, errors.InvalidCatalogName)


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
            if "query parameter" in said(error):  # else its words may hold a piece of the password
                raise Misconfigured(f"LOQUENT_STORE: {said(error)}") from None
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
                raise Misconfigured(f"the database {self._name} cannot be used: {said(error)}") from None
            raise away(said(error)) from error


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
