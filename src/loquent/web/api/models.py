"""Models: what a caller may name; for administrators, the registry of the rows behind the names."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field

from loquent.domain.clock import iso
from loquent.domain.errors import LoquentError
from loquent.domain.models import Model
from loquent.domain.registry import place_of
from loquent.services.models import Offer
from loquent.services.registry import Added
from loquent.web.answers import json_answer
from loquent.web.api.shown import listing
from loquent.web.body import Wire
from loquent.web.deps import Admin, Ours, StrictRoute, Who
from loquent.wiring import Services

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=StrictRoute)
Text = Annotated[str, Field(min_length=1, max_length=2_000)]
Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=1_000)]
Table = Annotated[dict[str, Any], Field(max_length=50)]


class Row(Wire):
    """A row, with the fields that it has in a file of LOQUENT_MODELS; they are checked as there."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    engine: Annotated[str, Field(min_length=1, max_length=100)]
    id: Text
    abilities: Names | None = None
    context: int | None = None
    defaults: Table | None = None
    price: Table | None = None
    url: Text | None = None
    key_env: Text | None = None
    timeout: float | None = None
    timeouts: Table | None = None
    concurrency: int | None = None
    weight: float | None = None
    fallback: Names | None = None
    retries: int | None = None
    users: Names | None = None
    source: Text | None = None
    sha256: Text | None = None
    template: Text | None = None
    adapters: Annotated[list[dict[str, Any]], Field(max_length=50)] | None = None
    projector: Text | None = None


@router.get("", summary="List the models")
async def list_models(ours: Ours, who: Who) -> Response:
    """The models that the caller may name, with what each can do and costs (millionths, per million tokens).

    Administrators see them all, with the rows behind each, and the added rows that cannot be used here.
    """
    if await ours.accounts.is_admin(who):
        shown = [_whole(ours, offer) for offer in ours.models.offers.values()]
        return listing([*shown, *map(_left_out, ours.registry.left_out())])
    return listing([_shown(ours, ours.models.offer(row.name)) for row in ours.models.rows(who)])


@router.get("/{name:path}", summary="Get a model")
async def get_model(ours: Ours, who: Who, name: str) -> Response:
    """One of them. A name may have slashes in it."""
    if not await ours.accounts.is_admin(who):
        return json_answer(_shown(ours, ours.models.offer(name, who)))
    return json_answer(_known(ours, name))


@router.post("", status_code=201, summary="Add a model")
async def add_model(ours: Ours, who: Admin, body: Row) -> Response:
    """Takes effect at once here, and within a second in other processes on the same store.

    409 where there is a model of that name. A key is named by its variable alone, and only one that the operator has
    paired with the row's host.
    """
    name = await ours.registry.add(who, _given(body))
    return json_answer(_known(ours, name), status=201)


@router.put("/{name:path}", summary="Replace an added model")
async def replace_model(ours: Ours, who: Admin, name: str, body: Row) -> Response:
    """Answers that are being made go on as they began. 409 for a row of the settings."""
    await ours.registry.replace(who, name, _given(body))
    return json_answer(_known(ours, name))


@router.delete("/{name:path}", status_code=204, summary="Remove an added model")
async def remove_model(ours: Ours, who: Admin, name: str) -> Response:
    """409 for a row of the settings, and for one that others fall back on."""
    await ours.registry.remove(who, name)
    return Response(status_code=204)


@router.post("/{name:path}/test", summary="Ask whether a model is ready")
async def test_model(ours: Ours, who: Admin, name: str) -> Response:
    """Whether its engine would answer now, and why not; the model itself is not asked for anything."""
    engine = ours.models.offer(name).engine
    try:
        await engine.ready()
    except LoquentError as fault:
        return json_answer({"id": name, "ready": False, "detail": fault.message})
    return json_answer({"id": name, "ready": True, "detail": "ok"})


def _given(body: Row) -> dict[str, Any]:
    """The row as it is kept: what was said, and nothing else."""
    return body.model_dump(exclude_unset=True, exclude_none=True)


def _known(ours: Services, name: str) -> dict[str, Any]:
    added = ours.registry.added(name)
    if added is not None and name not in ours.models.offers:
        return _left_out(added)
    return _whole(ours, ours.models.offer(name))


def _shown(ours: Services, offer: Offer) -> dict[str, Any]:
    """What every caller sees of a model that he may use."""
    row, models = offer.model, ours.models
    return {
        "id": row.name,
        "object": "model",
        "engine": row.engine,
        "abilities": sorted(row.abilities),
        "context": row.context,
        "price": asdict(row.price),
        "defaults": row.defaults.asked(),
        "source": "added" if offer.is_added else "settings",
        "is_default": row.name == models.default,
        "is_summary_default": row.name == models.summary,
        "is_image_default": row.name == models.image,
    }


def _whole(ours: Services, offer: Offer) -> dict[str, Any]:
    """What an administrator sees: also where each row calls, though never a key."""
    row = offer.model
    added = ours.registry.added(row.name) if offer.is_added else None
    return {
        **_shown(ours, offer),
        "users": list(row.users),
        "fallback": list(row.fallback),
        "rows": [_behind(way.model) for way in offer.groups[0]],
        **(_dates(added) if added else {}),
    }


def _behind(row: Model) -> dict[str, Any]:
    """One of the equal rows behind a name."""
    return {
        "engine": row.engine,
        "engine_id": row.id,
        "url": place_of(row.url) if row.url else None,
        "key_env": row.key_env,
        "key_file": row.key_file,
        "timeouts": asdict(row.timeouts),
        "retries": row.retries,
        "concurrency": row.concurrency,
        "weight": row.weight,
        "context": row.context,
        "price": asdict(row.price),
    }


def _left_out(added: Added) -> dict[str, Any]:
    """A stored row that cannot be used here, and why."""
    name = added.record.name
    return {"id": name, "object": "model", "source": "added", "problem": added.problem, **_dates(added)}


def _dates(added: Added) -> dict[str, Any]:
    record = added.record
    return {
        "row": record.row,
        "created_at": iso(record.created_at),
        "updated_at": iso(record.updated_at),
        "created_by": record.created_by,
    }
