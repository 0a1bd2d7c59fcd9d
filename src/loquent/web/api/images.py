"""Images: upload pictures, have a model say what is in them, take them back without their metadata."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Query, Request, Response, UploadFile
from pydantic import Field

from loquent.domain.clock import iso
from loquent.domain.generations import Content, Generation
from loquent.domain.images import Image
from loquent.domain.models import BOOLEAN
from loquent.services.images import Question
from loquent.web.answers import json_answer
from loquent.web.api.asked import AskedNowOrLater
from loquent.web.api.events import EVENTS, answer_of
from loquent.web.api.shown import listing, shown
from loquent.web.deps import Ours, StrictRoute, Who, check_form
from loquent.web.direct import idempotency_key
from loquent.web.download import SENT_ON, original
from loquent.web.errors import rate_headers
from loquent.web.uploads import called, kept

router = APIRouter(prefix="/api/v1/images", tags=["images"], route_class=StrictRoute)
UPLOAD = "/api/v1/images"
LONGEST_PROMPT = 10_000  # characters
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
    **SENT_ON,
}


class NewLook(AskedNowOrLater):
    """What is asked about an image. Without a prompt: what is in it."""

    prompt: Annotated[str, Field(max_length=LONGEST_PROMPT)] = ""


@router.post("", status_code=201, summary="Upload an image", dependencies=[Depends(check_form)])
async def create_image(
    request: Request, ours: Ours, who: Who, file: Annotated[UploadFile, File(description="PNG, JPEG, WebP or GIF")]
) -> Response:
    """It is written anew without its metadata, in a process of its own, and kept so.

    Send an Idempotency-Key to make repeats safe for 24 hours.
    """
    name = called(file)
    async with kept(file) as (path, digest):
        key = idempotency_key(request.headers.get("idempotency-key"), request.scope, digest + name.encode())
        made = await ours.images.keep(who, path, name, surface="api", key=key)
    place = (b"location", f"/api/v1/images/{made.record.id}".encode())
    again = [(b"idempotent-replayed", b"true")] if made.replayed else []
    return json_answer(_shown(made.record), status=201, headers=[place, *rate_headers(made.limit), *again])


@router.get("", summary="List one's own, newest first")
async def list_images(
    ours: Ours,
    who: Who,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern="^img_[0-9a-f]{32}$")] = None,
) -> Response:
    """A page, from behind the id `after`. `has_more` says whether more lie behind it."""
    page = await ours.images.page(who, limit=limit, after=after)
    return listing([_shown(each) for each in page.items], more=page.more)


@router.get("/{id}", summary="Get one")
async def get_image(ours: Ours, who: Who, id: str) -> Response:
    """One's own; another's is not found."""
    return json_answer(_shown(await ours.images.get(who, id)))


@router.get("/{id}/original", summary="Download it", response_class=Response, responses=FILE)
async def get_original(ours: Ours, who: Who, id: str) -> Response:
    """The picture as it is kept, always as an attachment."""
    image, pieces = await ours.images.original(who, id)
    return await original(ours, image, pieces, media_type=image.media_type)


@router.delete("/{id}", status_code=204, summary="Erase one")
async def delete_image(ours: Ours, who: Who, id: str) -> Response:
    """What was answered about it stays among the generations."""
    await ours.images.remove(who, id)
    return Response(status_code=204)


@router.post("/{id}/generations", summary="Ask about one", responses=EVENTS)
async def create_look(request: Request, ours: Ours, who: Who, id: str, body: NewLook) -> Response:
    """Answered with the generation; `stream` sends events (delta, then done or error); `background` makes a job.

    Where the model says nothing but true or false, `answer` is that boolean. Send an Idempotency-Key to make repeats
    safe for 24 hours.
    """
    key = idempotency_key(request.headers.get("idempotency-key"), request.scope, await request.body())
    question = Question(body.prompt, body.model, body.parameters(), body.stream, body.background)
    begun = await ours.images.ask(who, id, question, surface="api", key=key)
    return answer_of(request, ours, begun, _look, streamed=body.stream, background=body.background)


def answer_in(content: Content) -> str | bool:
    """What the model said: a text, or the boolean that it is."""
    return content.output == "true" if content.input.get("answers") == BOOLEAN else content.output


def _look(generation: Generation, content: Content) -> dict[str, Any]:
    return shown(generation, content) | {"answer": answer_in(content) if content.output else None}


def _shown(image: Image) -> dict[str, Any]:
    return {
        "id": image.id,
        "object": "image",
        "name": image.name,
        "kind": image.kind,
        "media_type": image.media_type,
        "size": image.size,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "surface": image.surface,
        "created_at": iso(image.created_at),
    }
