"""All tables of the first release: generations, contents, users, usage_days, repeats."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.Text()


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "contents",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("input", JSON, nullable=False),
        sa.Column("output", TEXT, nullable=False),
        sa.Column("sources", JSON),
    )
    op.create_table(
        "generations",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("surface", TEXT, nullable=False),
        sa.Column("mode", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("input_preview", TEXT, nullable=False),
        sa.Column("output_preview", TEXT, nullable=False),
        sa.Column("input_characters", sa.BigInteger(), nullable=False),
        sa.Column("output_characters", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("completed_at", sa.BigInteger()),
        sa.Column("due_at", sa.BigInteger()),
        sa.Column("attempts", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("fence", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("lease_by", TEXT),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("finish_reason", TEXT),
        sa.Column("prompt_tokens", sa.BigInteger()),
        sa.Column("completion_tokens", sa.BigInteger()),
        sa.Column("usage_estimated", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("cost", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("error_code", TEXT),
        sa.Column("error_message", TEXT),
        sa.Column("steps_done", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("steps", sa.BigInteger(), nullable=False, server_default="0"),
    )
    _index("generations", "generations_due", ["due_at", "id"], where="due_at IS NOT NULL")
    _index("generations", "generations_kind", ["tenant", "owner", "kind", "id"])
    _index("generations", "generations_kind_status", ["tenant", "owner", "kind", "status", "id"])
    _index("generations", "generations_model", ["tenant", "owner", "model", "id"])
    _index("generations", "generations_newest", ["tenant", "owner", "id"])
    _index("generations", "generations_status", ["tenant", "owner", "status", "id"])
    op.create_table(
        "repeats",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("fingerprint", TEXT, nullable=False),
        sa.Column("generation", TEXT, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
    )
    _index("repeats", "repeats_expiring", ["expires_at", "id"])
    op.create_table(
        "usage_days",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("day", TEXT, nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("generations", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cost", sa.BigInteger(), nullable=False, server_default="0"),
    )
    _index("usage_days", "usage_days_days", ["tenant", "owner", "day", "id"])
    op.create_table(
        "users",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("username", TEXT, nullable=False),
        sa.Column("email", TEXT),
        sa.Column("password_hash", TEXT, nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    _index("users", "users_email", ["tenant", "email"], where="email IS NOT NULL", unique=True)
    _index("users", "users_newest", ["tenant", "id"])
    _index("users", "users_username", ["tenant", "username"], unique=True)


def _index(table: str, name: str, columns: list[str], *, where: str | None = None, unique: bool = False) -> None:
    sparse: dict[str, Any] = {f"{dialect}_where": where and sa.text(where) for dialect in ("sqlite", "postgresql")}
    op.create_index(name, table, columns, unique=unique, **sparse)
