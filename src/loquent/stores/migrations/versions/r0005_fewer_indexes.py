"""Two indexes less for each generation: lists by kind or by status are put together from the one for both."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
works_from = "0003"


def upgrade() -> None:
    """Older programs list without them too, only more slowly."""
    for name in ("kind", "status"):
        op.drop_index(f"generations_{name}", "generations")
