"""The SQL schema's history: Alembic revisions, run from the program in one transaction; an empty database needs none.

A revision that only adds what older programs may leave alone says so: ``works_from`` names the oldest one whose
programs still work with it. So a program and the one after it serve the same database while the one replaces the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loquent.domain import failpoints
from loquent.domain.errors import Misconfigured
from loquent.domain.log import Log
from loquent.stores import Checked

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

log = Log("loquent.store")
HEAD = "0005"
"""The revision that this program works with. Said here so that an up-to-date database opens without Alembic."""
WORKS_FROM = "0003"
"""The oldest revision whose programs work with that one: what the revisions say, for a database that is new."""
MID = "mid-migration"
"""The failpoint at which a migration's statements are run and nothing is kept yet."""


class Schema(NamedTuple):
    """The one row of ``alembic_version``: what a database says of itself."""

    revision: str | None = None
    works_from: str | None = None  # the oldest revision whose programs work with it; None: no older one

    @property
    def is_newer(self) -> bool:
        """Whether a newer program wrote it: revisions are numbered."""
        return self.revision is not None and self.revision > HEAD

    @property
    def is_borne(self) -> bool:
        """Whether it is newer, and made so that this program can go on with it."""
        return self.is_newer and self.works_from is not None and self.works_from <= HEAD

    def is_usable(self, name: str) -> bool:
        """Whether this program works with it as it is; a word in the log where it is newer."""
        if self.is_borne:
            log.warning("the database is newer than this program", name=name, schema=self.revision, program=HEAD)
        return self.revision == HEAD or self.is_borne


def upgrade(connection: Connection, name: str) -> None:
    """Bring the database up to HEAD, within the transaction that the connection is in: all of it or nothing.

    ``name`` is what the database is called in errors. Raises Misconfigured where it is newer than the program, or
    not one of ours.
    """
    from sqlalchemy import inspect

    if inspect(connection).get_table_names():
        migrate(connection, name)
    else:
        _make(connection)


def migrate(connection: Connection, name: str) -> None:
    """The same, one revision after the other, from whichever it has, or from nothing."""
    from alembic import command  # slow to import, and seldom needed
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import inspect

    config = configured(connection)
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None and inspect(connection).get_table_names():
        raise not_ours(name)
    if current is not None:
        found = connection.exec_driver_sql("SELECT * FROM alembic_version").one()
        if Schema(*found[:2]).is_usable(name):
            return  # another process was faster
    modules = {each.revision: each.module for each in ScriptDirectory(_scripts()).walk_revisions()}
    if current is not None and current not in modules:
        raise newer(name, current)
    command.upgrade(config, HEAD)
    _note(connection, max(getattr(module, "works_from", revision) for revision, module in modules.items()))


def _make(connection: Connection) -> None:
    """All tables as they are declared, which is where the revisions lead to, in a tenth of the time."""
    from sqlalchemy import text

    from loquent.stores.sql_tables import METADATA

    METADATA.create_all(connection, checkfirst=False)
    version = (
        "version_num VARCHAR(32) NOT NULL, works_from TEXT, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"
    )
    connection.exec_driver_sql(f"CREATE TABLE alembic_version ({version})")
    known = {"revision": HEAD, "older": _older(WORKS_FROM)}
    connection.execute(text("INSERT INTO alembic_version VALUES (:revision, :older)"), known)
    failpoints.passing(MID)


def _note(connection: Connection, works_from: str) -> None:
    """Have the database say which programs work with it, for those that will find it newer than they are."""
    from sqlalchemy import inspect, text

    if all(column["name"] != "works_from" for column in inspect(connection).get_columns("alembic_version")):
        connection.exec_driver_sql("ALTER TABLE alembic_version ADD COLUMN works_from TEXT")
    connection.execute(text("UPDATE alembic_version SET works_from = :older"), {"older": _older(works_from)})


def _older(works_from: str) -> str | None:
    return works_from if works_from < HEAD else None


def standing(schema: Schema, *said: str) -> Checked:
    """How a schema stands, beside what was found already."""
    found, current = list(said), schema.revision
    if schema.is_newer and not schema.is_borne:
        found.append(f"the schema is {current}, newer than this program knows ({HEAD}): use a newer Loquent")
    elif current != HEAD and not schema.is_borne:
        found.append(f"the schema is {current or 'empty'}: `loquent store upgrade` brings it to {HEAD}")
    return Checked(current, HEAD, tuple(found))


def configured(connection: Connection) -> Config:
    """Alembic's configuration for this connection: no file needed."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", _scripts().replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def newer(name: str, current: str) -> Misconfigured:
    """What a schema from the future is refused with."""
    return Misconfigured(
        f"{name} has schema {current}, which this program (schema {HEAD}) does not know: a newer Loquent wrote it"
    )


def not_ours(name: str) -> Misconfigured:
    """What somebody else's database is refused with."""
    return Misconfigured(f"{name} holds tables, but not Loquent's: give Loquent a database of its own")


def _scripts() -> str:
    return str(Path(__file__).parent)
