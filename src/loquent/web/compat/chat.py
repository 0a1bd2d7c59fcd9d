"""The chat family's surface: /session/initialize_session, /chat and /feedback. Errors are ``{"detail": text}``.

No login: the id of a session that was begun without a token is its key. One that was begun with a token is its user's
own, like every other of theirs: only that user's token opens it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Response
from pydantic import Field

from loquent.domain.clock import iso
from loquent.domain.ids import as_uuid, from_uuid
from loquent.domain.sessions import PREFIX
from loquent.services.sessions import Manner
from loquent.web.answers import headers_of, json_answer
from loquent.web.body import Wire
from loquent.web.deps import Ours, StrictRoute, Who
from loquent.web.direct import Call, Direct
from loquent.web.errors import rate_headers
from loquent.web.messages import LONGEST

router = APIRouter(tags=["chat"], route_class=StrictRoute)
SURFACE = "chat"
PREFIXES = ("/session", "/chat", "/feedback")
Id = Annotated[str, Field(max_length=100)]


class Said(Wire):
    """A message in a session."""

    session_id: Id
    role: Literal["user"]
    content: Annotated[str, Field(min_length=1, max_length=LONGEST)]


class Thought(Wire):
    """What somebody thinks of a session."""

    session_id: Id
    feedback: Annotated[str, Field(min_length=1, max_length=LONGEST)]


@router.post("/session/initialize_session", summary="Begin a chat")
async def initialize_session(ours: Ours, who: Who) -> Response:
    """Its id is the key to it, unless a token says whose it is. Whatever the body holds is not looked at."""
    session, state = await ours.sessions.create(who, surface=SURFACE, is_held=who.is_anonymous)
    body = {
        "session_id": as_uuid(session.id),
        "created_at": iso(session.created_at),
        "last_active": iso(session.last_active_at),
        "is_active": 1,
    }
    return json_answer(body, headers=rate_headers(state))


async def chat(call: Call) -> None:
    """Answer a message; the session's earlier messages are taken into account."""
    who = call.who()
    body = await call.body(Said)
    sessions, id = call.services.sessions, _id(body.session_id)
    speaker = await sessions.speaker(who, id)
    begun = await sessions.send(speaker, id, body.content, Manner(SURFACE, key=call.key()))
    if begun.live is not None:
        with call.watch():
            await call.services.generations.collect(begun)
    _, content = begun.now()
    said = {"session_id": as_uuid(id), "role": "assistant", "content": content.output}
    await call.reply(msgspec.json.encode(said), headers=headers_of(begun))


CHAT = Direct(
    path="/chat",
    handler=chat,
    body=Said,
    summary="Say something",
    tags=("chat",),
    answers={
        "200": "The answer",
        "404": "There is no such session",
        "410": "It has expired",
        "422": "What was said cannot be taken",
        "429": "Over the rate; Retry-After tells when to come again",
        "503": "The model is loading or away",
    },
)


@router.post("/feedback", summary="Say what one thinks of a chat")
async def give_feedback(ours: Ours, who: Who, body: Thought) -> Response:
    """Also of one that has expired."""
    id = _id(body.session_id)
    speaker = await ours.sessions.speaker(who, id)
    await ours.feedbacks.on_session(speaker, id, surface=SURFACE, comment=body.feedback)
    return json_answer({"detail": "Feedback received"})


def _id(session_id: str) -> str:
    """Our own form of it; of what is no UUID, one that nobody has."""
    return from_uuid(PREFIX, session_id) or ""
