"""The documents family's surface: /getdoc. Errors are ``{"detail": text}``; its ids are ours as UUIDs."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, File, Query, Request, Response, UploadFile

from loquent.domain.clock import iso
from loquent.domain.errors import EngineBusy, EngineTimeout, LoquentError, NotYet, Unavailable
from loquent.domain.generations import COMPLETED, FAILED, Content, Generation
from loquent.domain.ids import as_uuid, from_uuid
from loquent.services import live
from loquent.services.documents import Answered
from loquent.services.wanted import Begun
from loquent.web.answers import WholeAnswer, json_answer
from loquent.web.deps import Ours, StrictRoute, Who, check_form
from loquent.web.direct import idempotency_key
from loquent.web.download import Pieces
from loquent.web.errors import Plain
from loquent.web.uploads import called, kept
from loquent.wiring import Services

router = APIRouter(prefix="/getdoc", tags=["documents"], route_class=StrictRoute)
PREFIX = "/getdoc"
UPLOAD = "/getdoc/uploadfile"
MOST = 1_000  # answers that one list has, the newest: this family has no pages; /api/v1/history goes further


@router.post("/uploadfile", summary="Upload a text and have it answered", dependencies=[Depends(check_form)])
async def upload_file(
    request: Request, ours: Ours, who: Who, file: Annotated[UploadFile, File(description="txt")]
) -> Response:
    """Answered with what the model says of it. A slow model: 408; its own error: its status; one that is away: 502."""
    name = called(file)
    async with kept(file) as (path, digest):
        key = idempotency_key(request.headers.get("idempotency-key"), request.scope, digest + name.encode())
        begun, text = await ours.documents.keep_and_ask(who, path, name, ending=".txt", surface="documents", key=key)
    return Answer(ours.generations, begun, lambda generation, content: _first(generation, content, text))


@router.get("/responsedetails", summary="Get an answer with its document")
async def response_details(ours: Ours, who: Who, id: Annotated[str, Query(max_length=100)]) -> Response:
    """One's own, by the `_id` that the upload was answered with."""
    found = await ours.documents.answered(who, from_uuid("gen", id) or "")
    answer = _first(found.generation, found.content, found.text)
    return json_answer({name: _document(ours, found) if name == "request_id" else answer[name] for name in answer})


@router.get("/allResponses", summary="List one's own answers, newest first")
async def all_responses(ours: Ours, who: Who) -> Response:
    """The newest 1,000 that are over, each as its upload was answered."""
    return Pieces(_list(ours.documents.answers(who, most=MOST)), media_type="application/json")


async def _list(answers: AsyncIterator[Answered]) -> AsyncGenerator[bytes, None]:
    """A list in JSON, one of its texts in memory at a time."""
    before = b"["
    async for found in answers:
        yield before + msgspec.json.encode(_first(found.generation, found.content, found.text))
        before = b","
    yield b"[]" if before == b"[" else b"]"


def _first(generation: Generation, content: Content, text: str) -> dict[str, Any]:
    """The family's first form of an answer."""
    is_done = generation.status == COMPLETED
    return {
        "_id": as_uuid(generation.id),
        "user_id": generation.owner,
        "request_id": as_uuid(generation.upload or ""),
        "prompt": text,
        "ml_response": {"modelResponse": content.output, "isSuccess": is_done},
        "isSuccess": is_done,
    }


def _document(ours: Services, found: Answered) -> dict[str, Any]:
    """Where the file lies and what it is called; of one that was removed, that it is not there any more."""
    document = found.document
    return {
        "_id": as_uuid(found.generation.upload or ""),
        "user_id": found.generation.owner,
        "doc_url": ours.documents.address(document) if document else "",
        "doc_name": found.content.input["name"],
        "is_valid": document is not None,
        "timestamp": iso(document.created_at if document else found.generation.created_at),
    }


class Answer(WholeAnswer):
    """A whole answer whose faults are this family's own where it is the engine that failed."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        except LoquentError as error:
            raise _fault(error, self._begun) from error


def _fault(error: LoquentError, begun: Begun) -> LoquentError:
    """documents family: 408 where the engine is slow, its own status where it gave one, 502 where it is away."""
    generation, _ = begun.now()
    if generation.status != FAILED or generation.finish_reason == live.INTERRUPTED:
        return error  # no fault of the engine's
    if error.engine_status is not None and error.engine_status >= 400:
        status = error.engine_status
    elif isinstance(error, EngineTimeout):
        status = 408
    elif isinstance(error, Unavailable) and not isinstance(error, NotYet | EngineBusy):
        status = 502
    else:
        return error
    after = getattr(error, "retry_after", None)
    return Plain(status, error.message, {"retry-after": str(math.ceil(after))} if after else None)
