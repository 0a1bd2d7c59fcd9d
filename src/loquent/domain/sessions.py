"""A session: a chat. Its turns are generations that carry the session's id and their number in it.

A turn is one message and its answer. Nothing of a turn is kept twice: the message is the generation's input, the
answer its output. Numbers are given out by the session's own record, so two messages at once have an order.
"""

from __future__ import annotations

import uuid

from loquent.domain.clock import SECOND, Moment, now
from loquent.domain.errors import Gone
from loquent.domain.evolve import evolve
from loquent.domain.fixed import fixed
from loquent.domain.principals import DEFAULT_TENANT, Principal

PREFIX = "ses"
TITLE = 200  # characters
HEADING = 60  # characters of the first message that become the title


@fixed
class Session:
    """A chat. Its id is unguessable: to some clients it is the only key that they have."""

    id: str
    version: int
    tenant: str
    owner: str
    surface: str  # the set of paths that it was begun by
    title: str
    instructions: str  # a system message that goes before every turn; empty: none
    model: str | None  # None: the deployment's default
    created_at: Moment
    last_active_at: Moment  # of the last message
    is_active: bool = True  # False once it is known to have expired
    turns: int = 0  # numbers given out so far


def begin(
    who: Principal | None, *, surface: str, title: str = "", instructions: str = "", model: str | None = None
) -> Session:
    """A new session of that principal; None: of whoever holds its id."""
    id, moment = new_id(), now()
    owner = who or holder(id)
    return Session(id, 0, owner.tenant, owner.owner, surface, title, instructions, model, moment, moment)


def new_id() -> str:
    """122 random bits: an id that tells nothing, not even its time."""
    return f"{PREFIX}_{uuid.uuid4().hex}"


def holder(session: str) -> Principal:
    """Whoever holds the id of a session that was begun without a login: its owner."""
    return Principal(DEFAULT_TENANT, session, "anonymous", is_anonymous=True)


def is_expired(session: Session, minutes: float, moment: Moment) -> bool:
    """Whether it has been quiet for that many minutes, or was closed for it. At the very boundary it is."""
    return not session.is_active or moment - session.last_active_at >= minutes * 60 * SECOND


def spoken_in(session: Session, minutes: float, message: str = "") -> Session:
    """With one message more: its number is ``turns`` of what comes back. Raises Gone where it has expired."""
    spoken = asked_again(session, minutes)
    return evolve(spoken, turns=session.turns + 1, title=session.title or heading(message))


def asked_again(session: Session, minutes: float) -> Session:
    """With its last answer to be made anew: no message more. Raises Gone where it has expired."""
    moment = now()
    if is_expired(session, minutes, moment):
        raise Gone(f"the session has expired: it was quiet for {minutes:g} minutes; begin a new one")
    return evolve(session, last_active_at=max(moment, session.last_active_at))


def heading(message: str) -> str:
    """What a session is called after its first message: how it begins, on one line, not cut in a word."""
    line = " ".join(message[: 4 * HEADING].split())
    if len(line) <= HEADING:
        return line
    whole, _, _ = line[:HEADING].rpartition(" ")
    return (whole if len(whole) > HEADING // 2 else line[: HEADING - 1]) + "…"


def closed(session: Session) -> Session:
    """Known to have expired: it takes no messages any more, whatever the clock says later."""
    return session if not session.is_active else evolve(session, is_active=False)
