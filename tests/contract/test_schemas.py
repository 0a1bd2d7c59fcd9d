"""A database that a newer program wrote: used where it says that this program may, otherwise left alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from loquent.domain.errors import Misconfigured
from loquent.stores import connect
from loquent.stores.migrations import HEAD
from postgres_server import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("postgres")]
STORES = ("sqlite", "postgresql")


class Database:
    """One whose schema is this program's until a test says otherwise."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self.store = connect(url, data_dir=folder)

    def execute(self, sql: str) -> list[tuple[str, ...]]:
        if self._url.startswith("sqlite"):
            with closing(sqlite3.connect(self._url.removeprefix("sqlite:///"), isolation_level=None)) as opened:
                return opened.execute(sql).fetchall()
        with psycopg.connect(self._url, autocommit=True) as found:
            done = found.execute(sql.encode())
            return done.fetchall() if done.description else []


@pytest.fixture(params=STORES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/loquent.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.database()
    made = Database(url, tmp_path)
    await made.store.upgrade()
    return made


async def test_a_newer_schema_that_bears_this_program_is_used_as_it_is(database: Database) -> None:
    [(found, works_from)] = database.execute("SELECT * FROM alembic_version")
    assert found == HEAD and (works_from is None or works_from < HEAD)
    database.execute(f"UPDATE alembic_version SET version_num = '9999', works_from = '{HEAD}'")  # noqa: S608
    await database.store.open()
    await database.store.close()
    assert (await database.store.check()).findings == ()
    assert database.execute("SELECT * FROM alembic_version") == [("9999", HEAD)]


async def test_one_that_has_left_this_program_behind_is_refused(database: Database) -> None:
    database.execute("UPDATE alembic_version SET version_num = '9999', works_from = '9998'")
    with pytest.raises(Misconfigured, match="a newer Loquent wrote it"):
        await database.store.open()
    assert "newer" in (await database.store.check()).findings[0]
