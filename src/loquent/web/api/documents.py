"""Documents: upload files, read their text, have a model answer about them, take the originals back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Query, Request, Response, UploadFile
from pydantic import Field

from loquent.domain.clock import iso
from loquent.domain.documents import Document
from loquent.services.documents import Question
from loquent.web.answers import json_answer
from loquent.web.api.asked import AskedNowOrLater
from loquent.web.api.events import EVENTS, answer_of
from loquent.web.api.shown import listing
from loquent.web.deps import Ours, StrictRoute, Who, check_form
from loquent.web.direct import idempotency_key
from loquent.web.download import SENT_ON, original
from loquent.web.errors import rate_headers
from loquent.web.uploads import called, kept

router = APIRouter(prefix="/api/v1/documents", tags=["documents"], route_class=StrictRoute)
UPLOAD = "/api/v1/documents"
LONGEST_WISH = 10_000  # characters of an instruction: it goes with every piece of the text
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    **SENT_ON,
}


class NewAnswer(AskedNowOrLater):
    """What is asked about a document. Without an instruction: what it says, in short."""

    instruction: Annotated[str, Field(max_length=LONGEST_WISH)] = ""


@router.post("", status_code=201, summary="Upload a document", dependencies=[Depends(check_form)])
async def create_document(
    request: Request, ours: Ours, who: Who, file: Annotated[UploadFile, File(description="txt, md, pdf or docx")]
) -> Response:
    """It is read in a process of its own, and kept. Send an Idempotency-Key to make repeats safe for 24 hours."""
    name = called(file)
    async with kept(file) as (path, digest):
        key = idempotency_key(request.headers.get("idempotency-key"), request.scope, digest + name.encode())
        made = await ours.documents.keep(who, path, name, surface="api", key=key)
    place = (b"location", f"/api/v1/documents/{made.record.id}".encode())
    again = [(b"idempotent-replayed", b"true")] if made.replayed else []
    return json_answer(_shown(made.record), status=201, headers=[place, *rate_headers(made.limit), *again])


@router.get("", summary="List one's own, newest first")
async def list_documents(
    ours: Ours,
    who: Who,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern="^doc_[0-9a-f]{32}$")] = None,
) -> Response:
    """A page, from behind the id `after`. `has_more` says whether more lie behind it."""
    page = await ours.documents.page(who, limit=limit, after=after)
    return listing([_shown(each) for each in page.items], more=page.more)


@router.get("/{id}", summary="Get one")
async def get_document(ours: Ours, who: Who, id: str) -> Response:
    """One's own; another's is not found."""
    return json_answer(_shown(await ours.documents.get(who, id)))


@router.get("/{id}/text", summary="Read its text")
async def get_text(ours: Ours, who: Who, id: str) -> Response:
    """What was read in it when it came."""
    found = await ours.documents.text(who, id)
    return json_answer({"id": found.id, "object": "document.text", "text": found.text})


@router.get("/{id}/original", summary="Download the original", response_class=Response, responses=FILE)
async def get_original(ours: Ours, who: Who, id: str) -> Response:
    """The file as it came, always as an attachment."""
    document, pieces = await ours.documents.original(who, id)
    is_text = document.media_type.startswith("text/")  # in whatever encoding it came: none is claimed
    media = "application/octet-stream" if is_text else document.media_type
    return await original(ours, document, pieces, media_type=media)


@router.delete("/{id}", status_code=204, summary="Erase one with its text and its original")
async def delete_document(ours: Ours, who: Who, id: str) -> Response:
    """What was answered about it stays among the generations."""
    await ours.documents.remove(who, id)
    return Response(status_code=204)


@router.post("/{id}/generations", summary="Ask about one", responses=EVENTS)
async def create_answer(request: Request, ours: Ours, who: Who, id: str, body: NewAnswer) -> Response:
    """Answered with the generation; `stream` sends events (delta, then done or error); `background` makes a job.

    A text that does not fit the model's context is worked on piece by piece. Send an Idempotency-Key to make repeats
    safe for 24 hours.
    """
    key = idempotency_key(request.headers.get("idempotency-key"), request.scope, await request.body())
    question = Question(body.instruction, body.model, body.parameters(), body.stream, body.background)
    begun = await ours.documents.ask(who, id, question, surface="api", key=key)
    return answer_of(request, ours, begun, streamed=body.stream, background=body.background)


def _shown(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "object": "document",
        "name": document.name,
        "kind": document.kind,
        "media_type": document.media_type,
        "size": document.size,
        "sha256": document.sha256,
        "characters": document.characters,
        "pages": document.pages,
        "surface": document.surface,
        "created_at": iso(document.created_at),
    }
