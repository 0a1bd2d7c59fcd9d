"""Feedback: say what one thinks of an answer or a chat; list it, take it back, get it beside what it is about."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import Field, model_validator

from loquent.domain.clock import iso
from loquent.domain.feedback import COMMENT, LABEL, LABELS, Feedback
from loquent.domain.generations import Content, Generation
from loquent.domain.principals import Principal
from loquent.services.feedback import Joined
from loquent.web.answers import json_answer
from loquent.web.api.shown import listing
from loquent.web.body import Wire
from loquent.web.deps import Ours, StrictRoute, Who
from loquent.web.download import Download
from loquent.wiring import Services

router = APIRouter(prefix="/api/v1/feedback", tags=["feedback"], route_class=StrictRoute)
GENERATION, SESSION, FEEDBACK = (f"^{prefix}_[0-9a-f]{{32}}$" for prefix in ("gen", "ses", "fbk"))
EXPORT: dict[int | str, dict[str, Any]] = {
    200: {"description": "A file", "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}
ASKED = ("prompt", "messages", "text", "message", "instruction")
"""Under one of these names stands what was asked, in the input of a generation; the first that is there counts."""


class NewFeedback(Wire):
    """What is thought of a generation or of a session: at least one of thumb, score, comment and labels."""

    generation_id: Annotated[str, Field(pattern=GENERATION)] | None = None
    session_id: Annotated[str, Field(pattern=SESSION)] | None = None
    thumb: Literal["up", "down"] | None = None
    score: Annotated[int, Field(ge=1, le=5)] | None = None
    comment: Annotated[str, Field(max_length=COMMENT)] = ""
    labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LABEL)]], Field(default_factory=list, max_length=LABELS)
    ]

    @model_validator(mode="after")
    def _of_one(self) -> NewFeedback:
        if (self.generation_id is None) == (self.session_id is None):
            raise ValueError("give either a generation_id or a session_id")
        return self


@router.post("", status_code=201, summary="Say what one thinks of an answer or a chat")
async def give_feedback(ours: Ours, who: Who, body: NewFeedback) -> Response:
    """A generation has one feedback, and a later one takes its place; a session may have many."""
    said: dict[str, Any] = {"thumb": body.thumb, "score": body.score, "comment": body.comment, "labels": body.labels}
    if body.generation_id is not None:
        made = await ours.feedbacks.on_generation(who, body.generation_id, surface="api", **said)
    else:
        made = await ours.feedbacks.on_session(who, body.session_id or "", surface="api", **said)
    place = [(b"location", f"/api/v1/feedback/{made.id}".encode())]
    return json_answer(_shown(made), status=201, headers=place)


@router.get("", summary="List one's own feedback, newest first")
async def list_feedback(
    ours: Ours,
    who: Who,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern=FEEDBACK)] = None,
    generation_id: Annotated[str | None, Query(pattern=GENERATION)] = None,
    session_id: Annotated[str | None, Query(pattern=SESSION)] = None,
) -> Response:
    """A page, from behind the id `after`; on one generation, or on one session."""
    page = await ours.feedbacks.page(who, limit=limit, after=after, generation=generation_id, session=session_id)
    return listing([_shown(each) for each in page.items], more=page.more)


@router.get("/export", summary="All of it beside what it is about", response_class=Response, responses=EXPORT)
async def export_feedback(ours: Ours, who: Who) -> Response:
    """One JSON object a line: what was asked, the answer, the model, its parameters, and what is thought of it."""
    return Download(_lines(ours, who), name="feedback.jsonl", media_type="application/x-ndjson")


@router.get("/{id}", summary="Get one feedback")
async def get_feedback(ours: Ours, who: Who, id: str) -> Response:
    """One's own; another's is not found."""
    return json_answer(_shown(await ours.feedbacks.get(who, id)))


@router.delete("/{id}", status_code=204, summary="Take one's feedback back")
async def delete_feedback(ours: Ours, who: Who, id: str) -> Response:
    """The generation is then as one of which nothing was said."""
    await ours.feedbacks.remove(who, id)
    return Response(status_code=204)


async def _lines(ours: Services, who: Principal) -> AsyncGenerator[bytes, None]:
    async with aclosing(ours.feedbacks.export(who)) as found:
        async for each in found:
            yield msgspec.json.encode(_joined(each)) + b"\n"


def _shown(feedback: Feedback) -> dict[str, Any]:
    return {
        "id": feedback.id,
        "object": "feedback",
        "generation_id": feedback.generation,
        "session_id": feedback.session,
        "thumb": feedback.thumb,
        "score": feedback.score,
        "comment": feedback.comment,
        "labels": feedback.labels["labels"],
        "surface": feedback.surface,
        "created_at": iso(feedback.created_at),
        "updated_at": iso(feedback.updated_at),
    }


def _joined(each: Joined) -> dict[str, Any]:
    row = _shown(each.feedback)
    if each.generation is not None and each.content is not None:
        return row | _answered(each.generation, each.content)
    return row | {"turns": each.turns}


def _answered(generation: Generation, content: Content) -> dict[str, Any]:
    """What was asked and answered. ``input`` is what else there was: a document's name, a summary's length."""
    rest = dict(content.input)
    asked = next((rest.pop(name) for name in ASKED if name in rest), None)
    is_chat = isinstance(asked, list)
    return {
        "kind": generation.kind,
        "session_id": generation.session,
        "turn": generation.turn,
        "prompt": None if is_chat else asked,
        "messages": asked if is_chat else None,
        "input": rest,
        "answer": content.output,
        "status": generation.status,
        "finish_reason": generation.finish_reason,
        "model": generation.model,
        "parameters": generation.parameters,
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "asked_at": iso(generation.created_at),
        "answered_at": iso(generation.completed_at) if generation.completed_at else None,
    }
