"""Chat sessions, documents, images, feedback and presets; what a generation knows of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.Text()


def upgrade() -> None:
    """New tables, and columns that old rows leave empty: a program of revision 0001 could still write beside it."""
    op.add_column("generations", sa.Column("session", TEXT))
    op.add_column("generations", sa.Column("turn", sa.BigInteger()))
    op.add_column("generations", sa.Column("turns_left_out", sa.BigInteger()))
    op.add_column("generations", sa.Column("upload", TEXT))
    op.add_column("generations", sa.Column("rating", TEXT))
    _index("generations", "turns", "tenant", "owner", "session", "turn", "id", where="turn IS NOT NULL")
    _table(
        "document_texts",
        sa.Column("text", TEXT, nullable=False),
    )
    _table(
        "documents",
        sa.Column("surface", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("media_type", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("characters", sa.BigInteger(), nullable=False),
        sa.Column("pages", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    _index("documents", "newest", "tenant", "owner", "id")
    _table(
        "feedbacks",
        sa.Column("surface", TEXT, nullable=False),
        sa.Column("generation", TEXT),
        sa.Column("session", TEXT),
        sa.Column("thumb", TEXT),
        sa.Column("score", sa.BigInteger()),
        sa.Column("comment", TEXT, nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
    )
    _index("feedbacks", "newest", "tenant", "owner", "id")
    _index("feedbacks", "session", "tenant", "owner", "session", "id")
    _index("feedbacks", "generation", "tenant", "owner", "generation", where="generation IS NOT NULL", unique=True)
    _table(
        "images",
        sa.Column("surface", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("media_type", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("width", sa.BigInteger(), nullable=False),
        sa.Column("height", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    _index("images", "newest", "tenant", "owner", "id")
    _table(
        "presets",
        sa.Column("surface", TEXT, nullable=False),
        sa.Column("parameters", JSON, nullable=False),
    )
    _table(
        "sessions",
        sa.Column("surface", TEXT, nullable=False),
        sa.Column("title", TEXT, nullable=False),
        sa.Column("instructions", TEXT, nullable=False),
        sa.Column("model", TEXT),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_active_at", sa.BigInteger(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("turns", sa.BigInteger(), nullable=False, server_default="0"),
    )
    _index("sessions", "latest", "tenant", "owner", "last_active_at", "id")
    _index("sessions", "quiet", "last_active_at", "id")


def _table(name: str, *columns: sa.Column[Any]) -> None:
    """A table of versioned records that somebody owns."""
    op.create_table(
        name,
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        *columns,
    )


def _index(table: str, order: str, *columns: str, where: str | None = None, unique: bool = False) -> None:
    sparse: dict[str, Any] = {f"{dialect}_where": where and sa.text(where) for dialect in ("sqlite", "postgresql")}
    op.create_index(f"{table}_{order}", table, list(columns), unique=unique, **sparse)
