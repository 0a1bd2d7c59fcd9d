"""The SQL schema's history: Alembic revisions, run from the program in one transaction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loquent.domain.errors import Misconfigured
from loquent.stores import Checked

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

HEAD = "0003"
"""The revision that this program works with. Said here so that an up-to-date database opens without Alembic."""


def upgrade(connection: Connection, name: str) -> None:
    """Bring the database up to HEAD, within the transaction that the connection is in: all of it or nothing.

    ``name`` is what the database is called in errors. Raises Misconfigured where it is newer than the program, or
    not one of ours.
    """
    from alembic import command  # slow to import, and seldom needed
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import inspect

    config = configured(connection)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == HEAD:
        return  # another process was faster
    if current is None and inspect(connection).get_table_names():
        raise not_ours(name)
    if current is not None and current not in {each.revision for each in ScriptDirectory(_scripts()).walk_revisions()}:
        raise newer(name, current)
    command.upgrade(config, HEAD)


def standing(current: str | None, *said: str) -> Checked:
    """How a schema of that revision stands, beside what was found already."""
    found = list(said)
    if current is not None and current > HEAD:  # revisions are numbered
        found.append(f"the schema is {current}, newer than this program knows ({HEAD}): use a newer Loquent")
    elif current != HEAD:
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
