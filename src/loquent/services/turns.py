"""The recipe of a turn: wait until the turns before it are over, take along what fits of them, and ask.

The history is read newest first, a small page at a time, and only until the model's context is full: a turn costs the
same after two hundred turns as after twenty thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from loquent.domain.errors import ContextOverflow, NotFound, NotYet
from loquent.domain.generations import Content, Generation
from loquent.domain.requests import Message
from loquent.domain.sessions import Session
from loquent.domain.usage import estimate_tokens
from loquent.ports.engine import Ask, Chunk
from loquent.ports.store import Position, Store
from loquent.services.live import Live
from loquent.services.recipes import answer

LOOK_SECONDS = 0.25  # between looks at an earlier turn that runs in another process
JOB_SECONDS = 1.0  # after which a job looks again; a job that waited would keep its slot from the turn it waits for
PAGE = 16  # earlier turns that are read at once
MOST = 1_000  # earlier turns that are looked at, whatever would fit
COUNTED = 1_000  # earlier turns that are counted; of more, their numbers say how many there are

CONTEXT = 4_096  # tokens, where the model's row does not say
ANSWER = 1_024  # tokens that are kept free for an answer, at most a quarter of the context, where nobody says
EACH = 4  # tokens that a message takes beside its text
MARGIN = 1.1  # what the estimate of tokens may be short of


@dataclass(slots=True)
class Past:
    """What is known of the turns before one: those that go along, newest first, and how many there are."""

    turns: list[tuple[Message, Message]] = field(default_factory=list)
    looked: int = 0  # records that were read
    is_all: bool = False  # all that there are were read
    unfinished: Generation | None = None  # one that has to end before anything can be said

    def messages(self) -> Iterable[Message]:
        """In the order in which they were said."""
        return (message for turn in reversed(self.turns) for message in turn)


class Turns:
    """Makes turns. Takes the whole store, as the runner does; ``running`` finds what runs in this process."""

    def __init__(self, store: Store, running: Callable[[str], Live | None]) -> None:
        self._store = store
        self._running = running

    def answer(self, live: Live) -> AsyncIterator[Chunk]:
        """The recipe of kind ``chat``: a turn of a session, or messages that bring their history themselves."""
        return answer(live) if live.generation.session is None else self._turn(live)

    async def _turn(self, live: Live) -> AsyncIterator[Chunk]:
        model, parameters = live.offer.model, live.parameters.over(live.offer.model.defaults)
        before, said = await self._instructions(live), Message("user", live.content.input["message"])
        context = model.context or CONTEXT
        room = int((context - (parameters.max_tokens or min(ANSWER, context // 4))) / MARGIN)
        async with asyncio.timeout(model.timeouts.total):
            past = await self._past(live, room - sum(map(_tokens, (*before, said))))
        live.turns_left_out = await self._earlier(live.generation, past) - len(past.turns)
        while True:
            messages = (*before, *past.messages(), said)
            live.asked_tokens = sum(map(_tokens, messages))
            ask = Ask(model, live.parameters, messages, streamed=True)  # whoever waits for the whole may stop it
            chunks = live.stream(ask)
            try:
                async for chunk in chunks:
                    past.turns.clear()  # what comes has begun: nothing is asked twice
                    yield chunk
                return
            except ContextOverflow:
                if not past.turns:
                    raise
                kept = len(past.turns) // 2
                live.turns_left_out += len(past.turns) - kept
                del past.turns[kept:]
            finally:
                if close := getattr(chunks, "aclose", None):
                    await close()

    async def _instructions(self, live: Live) -> tuple[Message, ...]:
        found = await self._store.get(Session, live.generation.session or "")
        if not found:
            raise NotFound("the session has been removed")
        return (Message("system", found[0].instructions),) if found[0].instructions else ()

    async def _past(self, live: Live, room: int) -> Past:
        """The turns that go along, once all before it are over. A job does not wait: it comes again."""
        while (past := await self._look(live.generation, room)).unfinished is not None:
            if live.is_job:
                raise NotYet("an earlier turn of its session is not over", retry_after=JOB_SECONDS)
            earlier = past.unfinished.id
            if (running := self._running(earlier)) is None:
                await asyncio.sleep(LOOK_SECONDS)
            while running is not None and self._running(earlier) is running:
                await running.is_quiet(LOOK_SECONDS)
        return past

    async def _look(self, mine: Generation, room: int) -> Past:
        """What fits of the turns before this one, newest first; turns that were never answered say nothing."""
        past = Past()
        after = Position(mine.turn, mine.id)
        while past.looked < MOST:
            page = await self._store.page(Generation, "turns", _within(mine), limit=PAGE, after=after, back=True)
            records = page.items[::-1]
            past.looked, past.is_all = past.looked + len(records), not page.more
            past.unfinished = next((each for each in records if not each.is_over), None)
            if past.unfinished is not None:
                return past
            answered = [each for each in records if each.output_characters]
            texts = await self._texts(answered, room)
            for each in answered:
                turn = texts.get(each.id)
                room -= sum(map(_tokens, turn)) if turn else room + 1
                if turn is None or room < 0:
                    return past
                past.turns.append(turn)
            if past.is_all:
                return past
            after = Position(records[-1].turn, records[-1].id)
        return past

    async def _texts(self, answered: list[Generation], room: int) -> dict[str, tuple[Message, Message]]:
        """The texts of those that may fit; a character is a quarter of a token or more, so the others need no look."""
        ids = []
        for each in answered:
            room -= (each.input_characters + each.output_characters) // 4
            if room < 0:
                break
            ids.append(each.id)
        contents = await self._store.get(Content, *ids) if ids else []
        return {
            each.id: (Message("user", each.input["message"]), Message("assistant", each.output)) for each in contents
        }

    async def _earlier(self, mine: Generation, past: Past) -> int:
        """How many turns there are before this one."""
        if past.is_all:
            return past.looked
        known = await self._store.count(Generation, "turns", _within(mine), cap=COUNTED)
        if known == COUNTED:
            return (mine.turn or 1) - 1
        later = await self._store.page(
            Generation, "turns", _within(mine), limit=COUNTED, after=Position(mine.turn, mine.id)
        )
        return known - 1 - len(later.items)


def _within(mine: Generation) -> dict[str, str | None]:
    return {"tenant": mine.tenant, "owner": mine.owner, "session": mine.session}


def _tokens(message: Message) -> int:
    return estimate_tokens(message.content) + EACH
