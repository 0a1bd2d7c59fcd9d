"""What Alembic runs to get at the database: the connection that ``upgrade`` was given."""

from __future__ import annotations

from alembic import context

from loquent.domain import failpoints
from loquent.stores.migrations import MID
from loquent.stores.sql_tables import METADATA


def run() -> None:
    """Run the migrations on the connection, in the transaction that it is in."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        on_version_apply=lambda **_: failpoints.passing(MID),  # its statements are run, nothing is kept yet
    )
    context.run_migrations()


if __name__ == "env_py":  # the name by which Alembic loads this file
    run()
