"""From when on the tokens of a user are good, and the list of those for whom that has been said."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
works_from = "0003"


def upgrade() -> None:
    """A column that old rows leave empty, and an index that holds none of them."""
    op.add_column("users", sa.Column("tokens_from", sa.BigInteger()))
    where = sa.text("tokens_from IS NOT NULL")
    op.create_index("users_revoked", "users", ["tokens_from", "id"], sqlite_where=where, postgresql_where=where)
