"""One index less for each generation: a list by status alone is put together from those by kind and status."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
works_from = "0003"


def upgrade() -> None:
    """Older programs list without it too, only more slowly."""
    op.drop_index("generations_status", "generations")
