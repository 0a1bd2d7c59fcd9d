"""The registry of models, who answered and what else there is to an answer, and the role of an account."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.Text()


def upgrade() -> None:
    """A new table, and columns that old rows leave empty: a program of revision 0002 could still write beside it."""
    op.add_column("generations", sa.Column("answered_by", TEXT))
    op.add_column("generations", sa.Column("details", JSON))
    op.add_column("contents", sa.Column("more", JSON))
    op.add_column("users", sa.Column("role", TEXT, nullable=False, server_default="user"))
    op.create_table(
        "model_rows",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("row", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
    )
    op.create_index("model_rows_name", "model_rows", ["name"], unique=True)
