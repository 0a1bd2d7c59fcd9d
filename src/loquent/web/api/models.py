"""Models: what a caller may name."""

from __future__ import annotations

from fastapi import APIRouter, Response

from loquent.web.api.generations import listing
from loquent.web.deps import Ours, StrictRoute, Who

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=StrictRoute)


@router.get("", summary="List the models")
async def list_models(ours: Ours, who: Who) -> Response:
    """The models, with what each can do and costs (millionths of the currency unit, per million tokens)."""
    rows = [
        {
            "id": row.name,
            "object": "model",
            "engine": row.engine,
            "abilities": sorted(row.abilities),
            "context": row.context,
            "price": {"input": row.price.input, "output": row.price.output},
            "is_default": row.name == ours.models.default,
            "is_summary_default": row.name == ours.models.summary,
        }
        for row in ours.models.rows()
    ]
    return listing(rows)
