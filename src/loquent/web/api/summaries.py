"""Summaries: this surface is the summaries family's own form, exactly (``/api/v1/summaries/``), and ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile
from pydantic import Field

from loquent.domain.clock import SECOND, iso
from loquent.domain.errors import NotFound
from loquent.domain.generations import CANCELLED, FAILED, MESSAGE, Content, Generation
from loquent.domain.ids import as_uuid, from_uuid
from loquent.services.history import Filters
from loquent.services.summaries import Wish
from loquent.services.wanted import Begun
from loquent.web.answers import json_answer
from loquent.web.body import Wire
from loquent.web.deps import Ours, StrictRoute, Who, check_form
from loquent.web.direct import idempotency_key
from loquent.web.errors import Headers, rate_headers
from loquent.web.uploads import kept

router = APIRouter(prefix="/api/v1/summaries", tags=["summaries"], route_class=StrictRoute)
UPLOAD = "/api/v1/summaries/files"
Length = Literal["short", "medium", "long"]


class NewSummary(Wire):
    """A text to make shorter."""

    text: str
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    language: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[\w -]+$")] | None = None
    length: Length = "medium"


@router.post("", status_code=201, summary="Summarize a text")
async def create_summary(request: Request, ours: Ours, who: Who, body: NewSummary) -> Response:
    """Takes the text as a job and answers at once, with status `pending`."""
    key = idempotency_key(request.headers.get("idempotency-key"), request.scope, await request.body())
    wish = Wish(body.model, body.language, body.length)
    begun = await ours.summaries.submit(who, body.text, wish, surface="summaries", key=key)
    return json_answer(_shown(begun.generation, begun.content), status=201, headers=_headers(begun))


@router.post("/files", status_code=201, summary="Summarize a file", dependencies=[Depends(check_form)])
async def create_summary_of_file(
    request: Request,
    ours: Ours,
    who: Who,
    file: Annotated[UploadFile, File(description="txt, md, pdf or docx")],
    model: Annotated[str | None, Form(max_length=200)] = None,
    language: Annotated[str | None, Form(max_length=40)] = None,
    length: Annotated[Length, Form()] = "medium",
) -> Response:
    """The same for a file, whose text may be far longer; it is read in a process of its own."""
    async with kept(file) as (path, digest):
        wish, name = Wish(model or None, language or None, length), file.filename or ""
        said = digest + repr((wish, name)).encode()  # not the body itself: its boundary is another each time
        key = idempotency_key(request.headers.get("idempotency-key"), request.scope, said)
        begun, read = await ours.summaries.submit_file(who, path, name, wish, surface="summaries", key=key)
    body = _shown(begun.generation, begun.content) | {"file": {"kind": read.kind, "pages": read.pages}}
    return json_answer(body, status=201, headers=_headers(begun))


@router.get("", summary="List one's own summaries")
async def list_summaries(
    ours: Ours,
    who: Who,
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
    per_page: Annotated[int, Query(ge=1, le=100)] = 20,
    status: Annotated[Literal["pending", "processing", "completed", "failed"] | None, Query()] = None,
) -> Response:
    """A page by number, newest first."""
    filters = Filters(kind="summary", status=status)
    found, total = await ours.generations.numbered(who, filters, page=page, per_page=per_page)
    rows = []
    for each in found:  # one text in memory at a time: a file's may be millions of characters
        rows += [_shown(each, content) for content in await ours.generations.contents(who, [each])]
    return json_answer({"summaries": rows, "total": total, "page": page, "per_page": per_page})


@router.get("/{id}", summary="Get a summary")
async def get_summary(ours: Ours, who: Who, id: str) -> Response:
    """One's own; unknown or another's: 404."""
    known = from_uuid("gen", id)
    try:
        generation, content = await ours.generations.get(who, known or "")
    except NotFound:
        raise NotFound("Summary not found") from None
    if generation.kind != "summary":
        raise NotFound("Summary not found")
    return json_answer(_shown(generation, content))


def _shown(generation: Generation, content: Content) -> dict[str, Any]:
    """A summary on the family's wire; fields behind ``completed_at`` are ours."""
    is_done = generation.status == "completed"
    seconds = None
    if generation.completed_at and generation.started_at:
        seconds = round((generation.completed_at - generation.started_at) / SECOND, 6)
    text: str = content.input["text"]
    return {
        "id": as_uuid(generation.id),
        "status": FAILED if generation.status == CANCELLED else generation.status,
        "summary_text": content.output if is_done else None,
        "error_message": _fault(generation),
        "text_length": generation.input_characters,
        "summary_length": len(content.output) if is_done else None,
        "processing_time": seconds,
        "model_used": generation.model if is_done else None,
        "created_at": iso(generation.created_at),
        "completed_at": iso(generation.completed_at) if generation.completed_at else None,
        "generation_id": generation.id,
        "progress": {"done": generation.steps_done, "of": generation.steps} if generation.steps else None,
        "sentences": [
            {"start": start, "end": end, "text": text[start:end]}
            for start, end in (content.sources or {}).get("spans", [])
        ],
    }


def _fault(generation: Generation) -> str | None:
    if generation.status == CANCELLED:
        return "it was cancelled"
    return generation.error_message[:MESSAGE] if generation.status == FAILED and generation.error_message else None


def _headers(begun: Begun) -> Headers:
    place = (b"location", f"/api/v1/summaries/{as_uuid(begun.generation.id)}".encode())
    return [place, *rate_headers(begun.limit), *([(b"idempotent-replayed", b"true")] if begun.replayed else [])]
