"""Sessions: chats with their turns. Begin, list, read, rename, erase; speak, stop, and have an answer made anew."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from loquent.domain.clock import iso, later
from loquent.domain.generations import COMPLETED, Content, Generation
from loquent.domain.sessions import TITLE, Session
from loquent.services.sessions import Manner
from loquent.web.answers import json_answer
from loquent.web.api.asked import Asked, AskedNowOrLater
from loquent.web.api.events import EVENTS, answer_of
from loquent.web.api.shown import common, listing
from loquent.web.body import Wire
from loquent.web.deps import Ours, StrictRoute, Who
from loquent.web.direct import idempotency_key
from loquent.web.errors import rate_headers
from loquent.web.messages import LONGEST
from loquent.wiring import Services

router = APIRouter(prefix="/api/v1/sessions", tags=["sessions"], route_class=StrictRoute)


class NewSession(Wire):
    """A chat to begin. The instructions go before every turn, as a system message."""

    title: Annotated[str, Field(max_length=TITLE)] = ""
    instructions: Annotated[str, Field(max_length=LONGEST)] = ""
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class NewTitle(Wire):
    """What a chat is to be called."""

    title: Annotated[str, Field(min_length=1, max_length=TITLE)]


class NewTurn(AskedNowOrLater):
    """A message. Where it names no model, the session's answers."""

    message: Annotated[str, Field(min_length=1, max_length=LONGEST)]


class Again(Asked):
    """How the last answer is to be made anew; what is not said is as it was."""


@router.post("", status_code=201, summary="Begin a chat")
async def create_session(ours: Ours, who: Who, body: NewSession) -> Response:
    """It takes messages until nothing has been said for 30 minutes (LOQUENT_SESSION_MINUTES)."""
    session, state = await ours.sessions.create(
        who, surface="api", title=body.title, instructions=body.instructions, model=body.model
    )
    place = (b"location", f"/api/v1/sessions/{session.id}".encode())
    return json_answer(_shown(ours, session), status=201, headers=[place, *rate_headers(state)])


@router.get("", summary="List one's own, the latest first")
async def list_sessions(
    ours: Ours,
    who: Who,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern="^ses_[0-9a-f]{32}$")] = None,
) -> Response:
    """A page, from behind the id `after`. `has_more` says whether more lie behind it."""
    page = await ours.sessions.page(who, limit=limit, after=after)
    return listing([_shown(ours, each) for each in page.items], more=page.more)


@router.get("/{id}", summary="Get one")
async def get_session(ours: Ours, who: Who, id: str) -> Response:
    """One's own; another's is not found. An expired one can still be read."""
    return json_answer(_shown(ours, await ours.sessions.get(who, id)))


@router.patch("/{id}", summary="Rename one")
async def rename_session(ours: Ours, who: Who, id: str, body: NewTitle) -> Response:
    """Without a title of its own it is called by how its first message begins."""
    return json_answer(_shown(ours, await ours.sessions.rename(who, id, body.title)))


@router.delete("/{id}", status_code=204, summary="Erase one with its turns")
async def delete_session(ours: Ours, who: Who, id: str) -> Response:
    """Its turns, their texts and the feedback on it go too. 409 while an answer is being made: stop it first."""
    await ours.sessions.remove(who, id)
    return Response(status_code=204)


@router.get("/{id}/turns", summary="Read its turns")
async def list_turns(
    ours: Ours,
    who: Who,
    id: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern="^gen_[0-9a-f]{32}$")] = None,
    order: Literal["asc", "desc"] = "asc",
) -> Response:
    """A page, from behind the id `after`: in the order in which they were said, or (`desc`) the newest first."""
    page = await ours.sessions.turns(who, id, limit=limit, after=after, newest_first=order == "desc")
    return listing([turn(*each) for each in page.items], more=page.more)


@router.post("/{id}/turns", summary="Say something", responses=EVENTS)
async def create_turn(request: Request, ours: Ours, who: Who, id: str, body: NewTurn) -> Response:
    """Answered with the turn; `stream` sends events (delta, then done or error); `background` makes a job.

    The earlier turns that fit the model's context go along. Messages of one chat are taken in order. 410 once it has
    expired. Send an Idempotency-Key to make repeats safe for 24 hours.
    """
    manner = await _manner(request, body)
    begun = await ours.sessions.send(who, id, body.message, manner, background=body.background)
    return answer_of(request, ours, begun, turn, streamed=body.stream, background=body.background)


@router.post("/{id}/regenerate", summary="Have the last answer made anew", responses=EVENTS)
async def regenerate(request: Request, ours: Ours, who: Who, id: str, body: Again) -> Response:
    """The new answer takes the old one's place among the turns; the old one stays among the generations."""
    begun = await ours.sessions.regenerate(who, id, await _manner(request, body))
    return answer_of(request, ours, begun, turn, streamed=body.stream)


@router.post("/{id}/stop", summary="Stop what is being answered")
async def stop(ours: Ours, who: Who, id: str) -> Response:
    """A list of the turns that were stopped; what there is of their answers is kept, and marked as cut."""
    return listing([turn(*each) for each in await ours.sessions.stop(who, id)])


def turn(generation: Generation, content: Content) -> dict[str, Any]:
    """A turn on our wire. ``cut``: its answer broke off, by a stop, a hang-up or a fault."""
    return {
        "id": generation.id,
        "object": "turn",
        "status": generation.status,
        "model": generation.model,
        "message": content.input["message"],
        "answer": content.output,
        "cut": generation.is_over and generation.status != COMPLETED and bool(content.output),
        "finish_reason": generation.finish_reason,
        **common(generation),
    }


def _shown(ours: Services, session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "object": "session",
        "title": session.title,
        "instructions": session.instructions,
        "model": session.model,
        "turns": session.turns,
        "surface": session.surface,
        "expired": ours.sessions.is_expired(session),
        "created_at": iso(session.created_at),
        "last_active_at": iso(session.last_active_at),
        "expires_at": iso(later(session.last_active_at, ours.sessions.minutes * 60)),
    }


async def _manner(request: Request, body: Asked) -> Manner:
    key = idempotency_key(request.headers.get("idempotency-key"), request.scope, await request.body())
    return Manner("api", model=body.model, parameters=body.parameters(), key=key)
