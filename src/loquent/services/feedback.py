"""Feedback: what people think of answers and of chats; kept, listed, and given out beside what it is about."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from loquent.domain import ids
from loquent.domain.clock import now
from loquent.domain.errors import Invalid, NotFound, Stale, Taken
from loquent.domain.evolve import evolve
from loquent.domain.feedback import PREFIX, Feedback, check
from loquent.domain.generations import Content, Generation
from loquent.domain.principals import Principal
from loquent.domain.sessions import Session
from loquent.ports.store import Add, Page, Position, Remove, Replace, Store
from loquent.services.history import batches, characters, texts_of
from loquent.services.scope import Scoped

TRIES = 100  # as many may speak of one generation at once: each try that fails means that another's went through
STEP = 100  # records that an export reads at once; their texts are fewer, see batches


@dataclass(frozen=True, slots=True)
class Joined:
    """Feedback with what it is about: a generation and its texts, or the turns of a session, by id."""

    feedback: Feedback
    generation: Generation | None = None
    content: Content | None = None
    turns: tuple[str, ...] = ()


class Feedbacks:
    """What is thought of generations and sessions, each owner's own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def on_generation(
        self,
        who: Principal,
        generation_id: str,
        *,
        surface: str,
        thumb: str | None = None,
        score: int | None = None,
        comment: str = "",
        labels: Sequence[str] = (),
    ) -> Feedback:
        """The one feedback on that generation; what was said before stays, but for what is said anew.

        Raises NotFound or Invalid.
        """
        said = _new(who, surface, thumb, score, comment, labels, generation=generation_id)
        scoped = Scoped(self._store, who)
        for _ in range(TRIES):
            found = await scoped.get(Generation, generation_id)
            if not found:
                raise NotFound("there is no such generation")
            former = await scoped.find(Feedback, "generation", {"generation": generation_id})
            new = said if former is None else _instead(former, said)
            try:  # the generation is written though it may say the same already: so it cannot vanish in between
                rated = Replace(found[0], evolve(found[0], rating=new.rating))
                await scoped.write(rated, Add(new) if former is None else Replace(former, new))
            except (Stale, Taken):
                continue
            return evolve(new, version=new.version + 1)
        raise Stale("too much is said of this generation at once")

    async def on_session(
        self,
        who: Principal,
        session_id: str,
        *,
        surface: str,
        thumb: str | None = None,
        score: int | None = None,
        comment: str = "",
        labels: Sequence[str] = (),
    ) -> Feedback:
        """One more feedback on that session, be it expired or not. Raises NotFound, Invalid."""
        said = _new(who, surface, thumb, score, comment, labels, session=session_id)
        scoped = Scoped(self._store, who)
        for _ in range(TRIES):
            found = await scoped.get(Session, session_id)
            if not found:
                raise NotFound("there is no such session")
            try:  # the session is written as it is: so it cannot vanish in between
                await scoped.write(Replace(found[0], found[0]), Add(said))
            except Stale:
                continue
            return evolve(said, version=1)
        raise Stale("too much is said in this session at once")

    async def get(self, who: Principal, id: str) -> Feedback:
        """One's own. Raises NotFound."""
        found = await Scoped(self._store, who).get(Feedback, id)
        if not found:
            raise NotFound("there is no such feedback")
        return found[0]

    async def page(
        self,
        who: Principal,
        *,
        limit: int,
        after: str | None = None,
        generation: str | None = None,
        session: str | None = None,
    ) -> Page[Feedback]:
        """One's own, newest first, from behind the id ``after``; of one generation or of one session."""
        if generation is not None and session is not None:
            raise Invalid("feedback is on a generation or on a session, not on both", field="session_id")
        scoped = Scoped(self._store, who)
        if generation is not None:
            found = await scoped.find(Feedback, "generation", {"generation": generation})
            return Page([found] if found and (after is None or found.id < after) else [], more=False)
        position = Position(after, after) if after else None
        if session is not None:
            return await scoped.page(Feedback, "session", {"session": session}, limit=limit, after=position)
        return await scoped.page(Feedback, "newest", limit=limit, after=position)

    async def remove(self, who: Principal, id: str) -> None:
        """Take it back; the generation is as one of which nothing was said. Raises NotFound."""
        scoped = Scoped(self._store, who)
        for _ in range(TRIES):
            said = await self.get(who, id)
            rated = await scoped.get(Generation, said.generation) if said.generation else []
            try:
                await scoped.write(Remove(said), *(Replace(each, evolve(each, rating=None)) for each in rated))
            except Stale:
                continue
            return
        raise Stale("too much is said of this generation at once")

    async def export(self, who: Principal) -> AsyncGenerator[Joined, None]:
        """All of one's own, newest first, with what it is about; few texts at a time are in memory."""
        scoped = Scoped(self._store, who)
        after: Position | None = None
        while True:
            page = await scoped.page(Feedback, "newest", limit=STEP, after=after)
            async for each in _joined(scoped, page.items):
                yield each
            if not page.more:
                return
            after = Position(page.items[-1].id, page.items[-1].id)


async def _joined(scoped: Scoped, feedbacks: list[Feedback]) -> AsyncIterator[Joined]:
    about = [each.generation for each in feedbacks if each.generation is not None]
    known = {each.id: each for each in (await scoped.get(Generation, *about) if about else ())}

    def size(feedback: Feedback) -> int:
        generation = known.get(feedback.generation or "")
        return characters(generation) if generation else 0

    for some in batches(feedbacks, size):
        contents = await texts_of(scoped, [known[id] for each in some if (id := each.generation) in known])
        for each in some:
            if each.session is not None:
                yield Joined(each, turns=await _turns(scoped, each.session))
            else:
                yield Joined(each, known.get(each.generation or ""), contents.get(each.generation or ""))


async def _turns(scoped: Scoped, session: str) -> tuple[str, ...]:
    """The ids of a session's turns, in their order."""
    found: list[str] = []
    after: Position | None = None
    while True:
        page = await scoped.page(Generation, "turns", {"session": session}, limit=STEP, after=after)
        found += [each.id for each in page.items]
        if not page.more:
            return tuple(found)
        after = Position(page.items[-1].turn, page.items[-1].id)


def _new(
    who: Principal,
    surface: str,
    thumb: str | None,
    score: int | None,
    comment: str,
    labels: Sequence[str],
    *,
    generation: str | None = None,
    session: str | None = None,
) -> Feedback:
    check(thumb, score, comment, tuple(labels))
    moment = now()
    return Feedback(
        id=ids.new(PREFIX),
        version=0,
        tenant=who.tenant,
        owner=who.owner,
        surface=surface,
        generation=generation,
        session=session,
        thumb=thumb,
        score=score,
        comment=comment,
        labels={"labels": list(labels)},
        created_at=moment,
        updated_at=moment,
    )


def _instead(former: Feedback, said: Feedback) -> Feedback:
    """What was said last in place of what was said first; what was not said again stays: a thumb, then a comment."""
    return evolve(
        said,
        id=former.id,
        version=former.version,
        created_at=former.created_at,
        thumb=said.thumb or former.thumb,
        score=former.score if said.score is None else said.score,
        comment=said.comment or former.comment,
        labels=said.labels if said.labels["labels"] else former.labels,
    )
