"""Sessions: chats. Begin one, speak in it, stop and make anew what it says, look through it, erase it.

A message is taken by one write of its generation and of the session, which gives its number: so two at once have an
order, and nothing that is refused leaves a trace. What a turn asks of the model is its recipe's (see turns.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loquent.domain import sessions
from loquent.domain.clock import now
from loquent.domain.errors import Conflict, Invalid, LoquentError, NotFound, Stale
from loquent.domain.evolve import evolve
from loquent.domain.generations import Content, Generation
from loquent.domain.models import CHAT
from loquent.domain.principals import Principal
from loquent.domain.requests import NOTHING, Parameters, from_stored
from loquent.domain.sessions import Session
from loquent.ports.limiter import State
from loquent.ports.store import Add, Page, Position, Replace, Store
from loquent.services import limits
from loquent.services.amend import amend
from loquent.services.erasure import erase_session
from loquent.services.generations import Generations
from loquent.services.limits import Limits
from loquent.services.models import Models
from loquent.services.scope import Scoped
from loquent.services.wanted import Begun, Key, Wanted

TRIES = 100  # as many may speak in one session at once: each try that fails means that another's went through
LAST = 100  # turns among which those are that are not over


@dataclass(frozen=True, slots=True)
class Manner:
    """How a turn is to be answered. ``model`` None: the session's, or the one that answered before."""

    surface: str
    model: str | None = None
    parameters: Parameters = NOTHING
    key: Key | None = None


Turn = tuple[Generation, Content]


class Sessions:
    """Chats, each owner's own. ``minutes`` of quiet expire one; it can still be read, renamed and erased."""

    def __init__(
        self, store: Store, models: Models, limits: Limits, generations: Generations, *, minutes: float
    ) -> None:
        self._store = store
        self._models = models
        self._limits = limits
        self._generations = generations
        self.minutes = minutes

    # Begin, find, look after

    async def create(
        self,
        who: Principal,
        *,
        surface: str,
        title: str = "",
        instructions: str = "",
        model: str | None = None,
        is_held: bool = False,
    ) -> tuple[Session, State | None]:
        """Begin one, and where the limit stands. ``is_held``: it is its holder's. Raises Over, NotFound or Invalid."""
        if model is not None:
            self._models.pick(model, CHAT, who=who)
        state = await self._limits.take(limits.SESSIONS, f"{who.tenant}/{who.owner}")
        session = sessions.begin(
            None if is_held else who, surface=surface, title=title.strip(), instructions=instructions, model=model
        )
        await self._store.write(Add(session))
        return evolve(session, version=1), state

    async def speaker(self, who: Principal, id: str) -> Principal:
        """As whom one may speak in it: oneself, or, where it was begun without a login, its holder. Raises NotFound."""
        for each in (who, sessions.holder(id)):
            if await Scoped(self._store, each).get(Session, id):
                return each
        raise _not_found()

    async def get(self, who: Principal, id: str) -> Session:
        """One's own. Raises NotFound."""
        found = await Scoped(self._store, who).get(Session, id)
        if not found:
            raise _not_found()
        return found[0]

    async def page(self, who: Principal, *, limit: int, after: str | None = None) -> Page[Session]:
        """One's own, the one that was last spoken in first, from behind the id ``after``."""
        scoped, position = Scoped(self._store, who), None
        if after is not None:
            found = await scoped.get(Session, after)
            if not found:
                raise Invalid("there is no such session to go on from", field="after")
            position = Position(found[0].last_active_at, after)
        return await scoped.page(Session, "latest", limit=limit, after=position)

    def is_expired(self, session: Session) -> bool:
        """Whether it takes no message any more."""
        return sessions.is_expired(session, self.minutes, now())

    async def rename(self, who: Principal, id: str, title: str) -> Session:
        """Call it something else. Raises NotFound or Invalid."""
        title = title.strip()
        if not 1 <= len(title) <= sessions.TITLE:
            raise Invalid(f"a title has 1 to {sessions.TITLE} characters", field="title")
        return await amend(Scoped(self._store, who), Session, id, lambda session: evolve(session, title=title))

    async def turns(
        self, who: Principal, id: str, *, limit: int, after: str | None = None, newest_first: bool = False
    ) -> Page[Turn]:
        """Its turns by number, from behind the turn whose id is ``after``. Raises NotFound or Invalid."""
        await self.get(who, id)
        scoped, position = Scoped(self._store, who), None
        if after is not None:
            found = await scoped.get(Generation, after)
            if not found or found[0].session != id or found[0].turn is None:
                raise Invalid("there is no such turn to go on from", field="after")
            position = Position(found[0].turn, after)
        page = await scoped.page(Generation, "turns", {"session": id}, limit=limit, after=position, back=newest_first)
        contents = {each.id: each for each in await self._generations.contents(who, page.items)}
        found_turns = [(each, contents[each.id]) for each in page.items if each.id in contents]
        return Page(found_turns[::-1] if newest_first else found_turns, page.more)

    # Speak

    async def send(self, who: Principal, id: str, message: str, manner: Manner, *, background: bool = False) -> Begun:
        """Take a message, to be answered by Generations.stream or collect, or as a job.

        Raises NotFound, Gone where it has expired, Over, and what Generations.begin does.
        """
        if not message.strip():
            raise Invalid("the message is blank", field="message")

        async def wanted(session: Session) -> Wanted:
            spoken = sessions.spoken_in(session, self.minutes, message)
            beside = (Replace(session, spoken),)
            model = manner.model or session.model
            return _wanted(id, spoken.turns, message, manner, model, manner.parameters, beside)

        return await self._take(who, id, manner.key, wanted, background=background)

    async def regenerate(self, who: Principal, id: str, manner: Manner) -> Begun:
        """Have the last message answered anew, as it was asked for before but for what ``manner`` says.

        The new answer takes the number of the old one, which stays in the history. It counts as a message, and keeps
        the session open as one does. Raises as ``send``, and Conflict where there is no answer yet.
        """

        async def wanted(session: Session) -> Wanted:
            asked = sessions.asked_again(session, self.minutes)
            last = await self.turns(who, id, limit=1, newest_first=True)
            if not last.items:
                raise Conflict("nothing has been said in this session yet")
            generation, content = last.items[0]
            if not generation.is_over:
                raise Conflict("the last answer is still being made; stop it first")
            beside = (Replace(session, asked), Replace(generation, evolve(generation, turn=None)))
            parameters = manner.parameters.over(from_stored(generation.parameters))
            model = manner.model or generation.model
            return _wanted(id, generation.turn, content.input["message"], manner, model, parameters, beside)

        return await self._take(who, id, manner.key, wanted)

    async def stop(self, who: Principal, id: str) -> list[Turn]:
        """End what is being answered in it, and what waits for that; what there is of it is kept."""
        await self.get(who, id)
        running = await self._running(Scoped(self._store, who), id)
        return [await self._generations.cancel(who, each.id) for each in running[::-1]][::-1]  # first those that wait

    async def _take(
        self,
        who: Principal,
        id: str,
        key: Key | None,
        wanted: Callable[[Session], Awaitable[Wanted]],
        *,
        background: bool = False,
    ) -> Begun:
        session = await self.get(who, id)
        if key is not None and (known := await self._generations.repeated(who, key)):
            return known
        accept = self._generations.submit if background else self._generations.begin
        for _ in range(TRIES):
            wish = await wanted(session)
            state = await self._limits.take(limits.MESSAGES, id)
            try:
                begun = await accept(who, wish)
            except LoquentError as error:
                await self._limits.give_back(limits.MESSAGES, id)
                if not isinstance(error, Stale):
                    raise
                session = await self.get(who, id)  # another message was faster
                continue
            if begun.replayed:
                await self._limits.give_back(limits.MESSAGES, id)
            begun.limit = _tightest(state, begun.limit)
            return begun
        raise Stale("too much is said in this session at once")

    # Erase

    async def remove(self, who: Principal, id: str) -> None:
        """Erase it: its turns, also those that were made anew, their texts, and what was thought of them.

        Raises Conflict while an answer is being made: stop it first. Cut off in the middle, it takes no message any
        more, and the rest goes when it is asked for again.
        """
        for _ in range(TRIES):  # again where a message came in between, or something was said of it
            session = await self.get(who, id)
            if await self._running(Scoped(self._store, who), id):
                raise Conflict("an answer is being made in this session; stop it first")
            if (await erase_session(self._store, session)).sessions:
                return
        raise Stale("too much is said in this session at once")

    async def _running(self, scoped: Scoped, id: str) -> list[Generation]:
        """The turns that are not over, in their order; they are among the last."""
        page = await scoped.page(Generation, "turns", {"session": id}, limit=LAST, back=True)
        return [each for each in page.items if not each.is_over]


def _wanted(
    session: str,
    number: int | None,
    message: str,
    manner: Manner,
    model: str | None,
    parameters: Parameters,
    beside: tuple[Replace, ...],
) -> Wanted:
    return Wanted(
        kind="chat",
        surface=manner.surface,
        input={"message": message},
        text=message,
        model=model,
        parameters=parameters,
        key=manner.key,
        needs=(CHAT,),
        session=session,
        turn=number,
        beside=beside,
    )


def _tightest(*states: State | None) -> State | None:
    return min(filter(None, states), key=lambda state: state.remaining, default=None)


def _not_found() -> NotFound:
    return NotFound("there is no such session")
