"""Models: what a caller may name."""

from __future__ import annotations

from fastapi import APIRouter, Response

from loquent.web.api.generations import json_answer
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
    ends = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return json_answer({"object": "list", "data": rows, "first_id": ends[0], "last_id": ends[1], "has_more": False})
