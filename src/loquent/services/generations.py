"""Generations: ask a model, now, as a stream or later; find, follow, cancel and remove what was asked.

The one door for every surface: each reads its wire into a Wanted, calls one method here, and writes its wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from loquent.domain import failpoints
from loquent.domain.clock import later, now
from loquent.domain.errors import Conflict, Invalid, LoquentError, NotFound, Stale, StillRunning, Taken
from loquent.domain.evolve import evolve
from loquent.domain.feedback import Feedback
from loquent.domain.generations import (
    BACKGROUND,
    FOREGROUND,
    Content,
    Generation,
    begin,
    cancelled,
)
from loquent.domain.models import CHAT, TEXT
from loquent.domain.principals import Principal
from loquent.ports.engine import Chunk
from loquent.ports.queue import Queue
from loquent.ports.store import Add, Position, Remove, Store
from loquent.services import live
from loquent.services.amend import TRIES, amend
from loquent.services.answers import Answers
from loquent.services.backlog import Backlog
from loquent.services.history import Filters, History, Listed
from loquent.services.limits import Limits
from loquent.services.lists import count_of, page_of, parts_of
from loquent.services.live import Live
from loquent.services.models import Models, Offer
from loquent.services.repeats import mark, repeated
from loquent.services.runner import Runner, interruption
from loquent.services.scope import Scoped
from loquent.services.tokens import Tokens
from loquent.services.wanted import Begun, Key, Wanted

CUT_SECONDS = 1.0  # after which a cancelled answer is ended though its caller is in the way
LOOK_SECONDS = 0.25  # between looks at a generation that runs in another process
QUIET_SECONDS = 15.0  # of silence, after which a follower is told that all is well


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a follower sees. ``offset``: characters of that attempt's output, up to the end of ``text``."""

    kind: str  # delta | progress | restart | quiet | done
    offset: int
    attempt: int
    text: str = ""
    steps_done: int = 0
    steps: int = 0
    generation: Generation | None = field(default=None)
    content: Content | None = field(default=None)


class Generations:
    """What is asked of models, by everybody, each seeing their own."""

    def __init__(
        self,
        store: Store,
        models: Models,
        limits: Limits,
        runner: Runner,
        queue: Queue,
        answers: Answers,
        backlog: Backlog,
        tokens: Tokens,
    ) -> None:
        self._store = store
        self._models = models
        self._limits = limits
        self._runner = runner
        self._queue = queue
        self._answers = answers
        self._backlog = backlog
        self._tokens = tokens

    # Ask

    async def begin(self, who: Principal, wanted: Wanted) -> Begun:
        """Accept one that the caller runs itself, by ``stream`` or ``collect``. Raises Over, Invalid, NotFound …"""
        offer = self._offer(who, wanted)
        if self._runner.writes.is_gone:
            await self._runner.writes.check()  # or the engine would work for nothing
        begun = await self._accept(who, wanted, FOREGROUND, offer)
        if begun.replayed:
            return begun
        if is_kept := wanted.is_kept_first:
            await self._keep(who, wanted, begun)
        if not begun.replayed:
            begun.live = Live(
                offer,
                begun.generation,
                begun.content,
                wanted.parameters,
                streamed=wanted.streamed,
                saved=is_kept,
                since=who.since,
            )
        return begun

    async def submit(self, who: Principal, wanted: Wanted) -> Begun:
        """Accept one as a job: it is durable when this returns, and will run to an end."""
        begun = await self._accept(who, wanted, BACKGROUND, self._offer(who, wanted))
        if not begun.replayed:
            place = begun.generation.due_at
            try:
                await self._keep(who, wanted, begun)
            finally:
                self._backlog.came(who, place)
        if not begun.replayed:
            failpoints.passing("after-commit")
            await self._queue.ring(begun.generation.id)
            failpoints.passing("after-ring")
        return begun

    def stream(self, begun: Begun) -> AsyncIterator[Chunk]:
        """Run it: the pieces as they come; the record is written before the iterator ends. See Runner.run."""
        if begun.live is None:
            raise TypeError("a job and a repeat are not run by their caller")
        return self._runner.run(begun.live)

    async def collect(self, begun: Begun) -> Begun:
        """Run it to its end; a repeat has ended already."""
        if begun.live is not None:
            await self._runner.collect(begun.live)
        return begun

    # Look after

    async def get(self, who: Principal, id: str) -> tuple[Generation, Content]:
        """One's own generation with its texts. Raises NotFound."""
        scoped = Scoped(self._store, who)
        found = await scoped.get(Generation, id)
        texts = await scoped.get(Content, id)
        if not found or not texts:
            raise NotFound("there is no such generation")
        running = self._runner.lives.get(id)
        if running is not None and running.saved and not found[0].is_over:
            return found[0], Content(id, 0, who.tenant, who.owner, texts[0].input, running.text)
        return found[0], texts[0]

    async def page(self, who: Principal, filters: Filters, *, limit: int, after: str | None = None) -> Listed:
        """See History.page."""
        return await History(self._store).page(who, filters, limit=limit, after=after)

    async def numbered(
        self, who: Principal, filters: Filters, *, page: int, per_page: int
    ) -> tuple[list[Generation], int]:
        """A page by number, and the total: only for wire forms that demand it."""
        scoped = Scoped(self._store, who)
        parts = parts_of(kind=filters.kind, status=filters.status, model=filters.model)
        total = await count_of(scoped, parts)
        after: Position | None = None
        skip = (page - 1) * per_page
        if skip >= total:
            return [], total
        while skip:
            skipped = await page_of(scoped, parts, limit=min(skip, 500), after=after)
            if not skipped.items:
                return [], total
            skip -= len(skipped.items)
            after = Position(skipped.items[-1].id, skipped.items[-1].id)
        return (await page_of(scoped, parts, limit=per_page, after=after)).items, total

    async def contents(self, who: Principal, generations: list[Generation]) -> list[Content]:
        """The texts of these, in their order; those without any are left out."""
        return await Scoped(self._store, who).get(Content, *(each.id for each in generations))

    async def cancel(self, who: Principal, id: str) -> tuple[Generation, Content]:
        """Ask that it ends; what there is of it is kept. One that is over stays as it is."""
        scoped = Scoped(self._store, who)
        running = self._runner.lives.get(id)
        if running is not None and running.generation.is_of(who.tenant, who.owner):
            running.stop(live.CANCELLED)
            late = later(now(), CUT_SECONDS)
            while self._runner.lives.get(id) is running:
                await running.is_quiet(0.2)
                if now() >= late:
                    running.cut()  # it does not wait for the engine but for a caller who takes nothing
        else:
            await amend(scoped, Generation, id, cancelled)
        return await self.get(who, id)

    async def remove(self, who: Principal, id: str) -> None:
        """Erase it with its texts and its feedback. Raises Conflict while it runs: cancel it first."""
        scoped = Scoped(self._store, who)
        for _ in range(TRIES):
            generation, _ = await self.get(who, id)
            if not generation.is_over:
                raise Conflict("it is not over; cancel it first")
            said = await scoped.find(Feedback, "generation", {"generation": id})
            texts = await scoped.get(Content, id)
            await self._answers.forget([generation])
            with suppress(Stale):  # something was said of it meanwhile: that goes too
                await scoped.write(*map(Remove, [generation, *texts, *([said] if said else [])]))
                return
        raise Stale(f"generation {id} keeps changing")

    async def follow(self, who: Principal, id: str, offset: int = 0, *, attempt: int = 1) -> AsyncIterator[Event]:
        """What happens to it from that many characters of its output on, to its end. Raises NotFound at once.

        ``attempt``: whose characters these were; where another has begun, it is told from its start behind a restart.
        Where it runs in another process this lags by half a checkpoint and LOOK_SECONDS at most. Raises
        Unauthenticated when the caller's token is revoked.
        """
        generation, content = await self.get(who, id)
        steps = (0, 0)
        while True:
            self._tokens.check_stands(who)
            running = self._runner.lives.get(id)
            fence = (running.generation if running else generation).fence
            over = running is None and generation.is_over
            text = running.text if running else _text_of(generation, content)
            if offset and (fence != attempt or (over and len(text) < offset)):
                offset = 0
                yield Event("restart", 0, fence)
            attempt = fence
            if len(text) > offset:  # shorter: this process knows less of it than the one that was asked before
                yield Event("delta", len(text), fence, text=text[offset:])
                offset = len(text)
            seen = (running.steps_done, running.steps) if running else (generation.steps_done, generation.steps)
            if seen != steps and seen[1]:
                steps = seen
                yield Event("progress", offset, fence, steps_done=seen[0], steps=seen[1])
            if over:
                yield Event("done", offset, fence, generation=generation, content=content)
                return
            if running is None and self._runner.is_stopping:
                raise interruption()  # it goes on elsewhere, or here after the start: follow it there
            if running is not None:
                if len(running.text) <= offset and await running.is_quiet(QUIET_SECONDS):
                    yield Event("quiet", offset, fence)
            else:
                await asyncio.sleep(LOOK_SECONDS)
            if self._runner.lives.get(id) is None:
                generation, content = await self._newer(who, generation, content)

    async def _newer(self, who: Principal, generation: Generation, content: Content) -> tuple[Generation, Content]:
        """The same as they are now; the texts are read where something was written since."""
        found = await Scoped(self._store, who).get(Generation, generation.id)
        if found and found[0].version == generation.version:
            return generation, content
        return await self.get(who, generation.id)

    # How it is accepted

    def _offer(self, who: Principal, wanted: Wanted) -> Offer:
        if wanted.kind == "summary":
            return self._models.pick_for_summary(wanted.model, who)
        needs = (CHAT,) if "messages" in wanted.input else (TEXT,) if wanted.input.get("plain") else (TEXT, CHAT)
        offer = self._models.pick(wanted.model, *(wanted.needs or needs), who=who)
        if lacking := wanted.called_for() - offer.model.abilities:
            able = ", ".join(sorted(offer.model.abilities))
            raise Invalid(f"the model {offer.model.name!r} can do {able}, not {min(lacking)}", field="model")
        return offer

    async def _accept(self, who: Principal, wanted: Wanted, mode: str, offer: Offer) -> Begun:
        self._tokens.check_stands(who)  # its body may have been long under way
        if wanted.key is not None and (known := await self.repeated(who, wanted.key)):
            return known
        state = await self._limits.take(wanted.rule, _whom(who))
        if mode == BACKGROUND:
            try:
                await self._backlog.check(who)
            except LoquentError:
                await self._limits.give_back(wanted.rule, _whom(who))
                raise
        generation = begin(
            who,
            kind=wanted.kind,
            surface=wanted.surface,
            mode=mode,
            model=offer.model.name,
            parameters=wanted.parameters.asked(),
            text=wanted.text,
            due_at=None if mode == FOREGROUND else self._backlog.place(who),
            lease=self._runner.pace.lease,
            session=wanted.session,
            turn=wanted.turn,
            upload=wanted.upload,
        )
        if wanted.cache is not None:
            generation = evolve(generation, details={"cache_asked": wanted.cache})
        content = Content(generation.id, 0, who.tenant, who.owner, wanted.input, "")
        return Begun(generation, content, limit=state)

    async def _keep(self, who: Principal, wanted: Wanted, begun: Begun) -> None:
        """Write what was accepted, with its key; where another request was first with the key, become its repeat."""
        key = wanted.key
        beside = [*wanted.beside, *([Add(mark(who, key, begun.generation.id))] if key else ())]
        try:
            await Scoped(self._store, who).write(Add(begun.generation), Add(begun.content), *beside)
            begun.generation, begun.content = evolve(begun.generation, version=1), evolve(begun.content, version=1)
        except Taken:
            known = await self.repeated(who, key) if key else None
            if known is None:
                raise StillRunning("another request with this Idempotency-Key is being worked on") from None
            begun.generation, begun.content, begun.replayed = known.generation, known.content, True
            await self._limits.give_back(wanted.rule, _whom(who))
        except Stale:  # what was to be written beside it has changed: nothing came of it
            await self._limits.give_back(wanted.rule, _whom(who))
            raise

    async def is_repeat(self, who: Principal, key: Key | None) -> bool:
        """Whether an earlier request with this key has a result. Raises Mismatch or StillRunning."""
        return key is not None and await self.repeated(who, key) is not None

    async def repeated(self, who: Principal, key: Key) -> Begun | None:
        """See repeats.repeated."""
        return await repeated(self._store, who, key)


def _text_of(generation: Generation, content: Content) -> str:
    """As much as its attempt has written: what a new one finds there is the text of the one before."""
    return content.output if generation.is_over else content.output[: generation.output_characters]


def _whom(who: Principal) -> str:
    """Whom a limit counts for."""
    return f"{who.tenant}/{who.owner}"
