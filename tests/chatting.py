"""Sessions to try: an engine that remembers what it was asked, and what was said before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from built import ANN
from loquent.domain.clock import now
from loquent.domain.errors import LoquentError
from loquent.domain.evolve import evolve
from loquent.domain.generations import Content, begin
from loquent.domain.principals import Principal
from loquent.domain.sessions import Session
from loquent.ports.engine import Ask, Chunk
from loquent.ports.store import Add, Replace
from loquent.services.models import Offer
from loquent.services.sessions import Manner, Turn
from loquent.wiring import Services

PAST = "2026-01-31T12:00Z"
FREE = {"LOQUENT_LIMIT_MESSAGES": "off", "LOQUENT_LIMIT_SESSIONS": "off", "LOQUENT_LIMIT_GENERATIONS": "off"}
PLAIN = Manner("api")


class Recorder:
    """An engine that remembers what it was asked, and answers as it is told to."""

    def __init__(self, say: Callable[[Ask], str | LoquentError]) -> None:
        self.asked: list[Ask] = []
        self._say = say

    @property
    def said(self) -> list[list[str]]:
        """The texts of the messages of each call."""
        return [[message.content for message in ask.messages] for ask in self.asked]

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port."""

    async def ready(self) -> None:
        """See the port."""

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port."""
        self.asked.append(ask)
        said = self._say(ask)
        if isinstance(said, LoquentError):
            raise said
        yield Chunk(said, "stop")


def with_recorder(
    services: Services, say: Callable[[Ask], str | LoquentError] | None = None, context: int | None = 1_000
) -> Recorder:
    """The echo model, answered for by a recorder: by default it says ``re: `` and the message."""
    recorder = Recorder(say or (lambda ask: f"re: {ask.messages[-1].content}"))
    offer = services.models.offers["echo"]
    changed = {**services.models.offers, "echo": Offer(replace(offer.model, context=context), recorder)}
    services.models.offers = changed
    return recorder


async def begun(services: Services, who: Principal = ANN, **more: str) -> str:
    """The id of a new session."""
    session, _ = await services.sessions.create(who, surface="api", **more)  # type: ignore[arg-type]
    return session.id


async def say(services: Services, id: str, message: str, who: Principal = ANN, manner: Manner = PLAIN) -> Turn:
    """A message and its answer."""
    taken = await services.sessions.send(who, id, message, manner)
    return (await services.generations.collect(taken)).now()


async def turns(services: Services, id: str, who: Principal = ANN) -> list[Turn]:
    return (await services.sessions.turns(who, id, limit=100)).items


async def past(services: Services, id: str, texts: list[tuple[str, str]], who: Principal = ANN) -> None:
    """Turns that were said before, straight into the store."""
    for message, answer in texts:
        [session] = await services.store.get(Session, id)
        spoken = evolve(session, turns=session.turns + 1)
        made = begin(
            who,
            kind="chat",
            surface="api",
            mode="foreground",
            model="echo",
            parameters={},
            text=message,
            due_at=None,
            session=id,
            turn=spoken.turns,
        )
        over = evolve(made, status="completed", due_at=None, output_characters=len(answer), completed_at=now())
        content = Content(made.id, 0, who.tenant, who.owner, {"message": message}, answer)
        await services.store.write(Add(over), Add(content), Replace(session, spoken))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)
