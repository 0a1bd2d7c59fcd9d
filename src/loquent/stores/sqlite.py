"""SQLite: a file, opened, brought up to date and checked; told apart from what is no database of ours."""

from __future__ import annotations

import sqlite3
from asyncio import timeout, to_thread
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qsl

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from loquent.domain.errors import Misconfigured, Unavailable
from loquent.stores import Checked, migrations
from loquent.stores.migrations import HEAD, Schema
from loquent.stores.sql import Call, Sql
from loquent.stores.sqlite_link import PRAGMAS, away, connection
from loquent.stores.sqlite_threads import Threads

OPTIONS = ("busy_timeout", "max_page_count", "cache_size", "mmap_size", "wal_autocheckpoint")
"""What a URL may set: sqlite:///loquent.db?busy_timeout=1000. ``max_page_count`` bounds the size of the file."""
LASTING = ("SQLITE_CANTOPEN", "SQLITE_NOTADB", "SQLITE_READONLY", "SQLITE_AUTH", "SQLITE_PERM")
MIGRATION = 60  # seconds that a process waits while another migrates
READY = 2.0  # seconds that `ready` waits


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
            raise away(error) from error


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
