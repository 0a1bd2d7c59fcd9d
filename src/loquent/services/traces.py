"""Traces of what the services do: the same services, which also tell of it. Built only where traces are on.

    POST /v1/chat/completions      the request (see web/traces.py), under the caller's own span where it names one
    └── chat large                 the generation: one run of it, here or in a worker that read the rest off the record
        ├── try large              each engine that was asked, in order
        ├── try small
        └── store write

Names of attributes: OpenTelemetry's conventions for generative AI, HTTP and databases; what these lack is loquent.…
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from hashlib import blake2b
from typing import Any, cast

from loquent.domain.clock import SECOND
from loquent.domain.errors import LoquentError
from loquent.domain.evolve import evolve
from loquent.domain.generations import BACKGROUND, FAILED, Content, Generation, Outcome, finished
from loquent.domain.models import Model
from loquent.domain.principals import Principal
from loquent.domain.records import RECORDS
from loquent.ports.engine import Ask, Chunk
from loquent.ports.figures import figures_of
from loquent.ports.store import Change, Replace, Store
from loquent.ports.tracer import CLIENT, CONSUMER, INTERNAL, Span, Tracer, current
from loquent.services.generations import Generations
from loquent.services.live import Live
from loquent.services.models import Offer
from loquent.services.pace import Pace
from loquent.services.runner import Recipe, Runner
from loquent.services.tries import Try
from loquent.services.wanted import Begun, Wanted

CARRIED = "trace"
"""In a job's details, until it is over: under which span it is run."""

OPERATIONS = {"embedding": "embeddings", "image": "generate_content"}
PARAMETERS = {name: f"gen_ai.request.{name}" for name in ("max_tokens", "temperature", "top_p", "seed")}
SAID = ("prompt", "text", "message")  # where an input that is no list of messages has its words
Told = dict[str, Any]
Fact = tuple[str, Any]


class TracedGenerations(Generations):
    """Puts on the record of a job under which span it was asked for."""

    async def _accept(self, who: Principal, wanted: Wanted, mode: str, offer: Offer) -> Begun:
        begun = await super()._accept(who, wanted, mode, offer)
        span = current.get()
        if mode == BACKGROUND and span is not None and not begun.replayed:
            details = {**(begun.generation.details or {}), CARRIED: dict(span.carried())}
            begun.generation = evolve(begun.generation, details=details)
        return begun


class TracedRunner(Runner):
    """Tells of each run. ``tells_content``: also what was asked and answered."""

    def __init__(
        self, store: Store, recipes: Mapping[str, Recipe], pace: Pace, *, tracer: Tracer, tells_content: bool
    ) -> None:
        super().__init__(store, recipes, pace)
        self._tracer = tracer
        self._tells_content = tells_content

    async def run(self, live: Live) -> AsyncGenerator[Chunk, None]:
        """See Runner."""
        before = current.get()
        span = self._begin(live.generation, live.content, before, streamed=live.streamed)
        current.set(span)
        try:
            async with aclosing(cast(AsyncGenerator[Chunk, None], super().run(live))) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            current.set(before)  # and no token: who closes this may be another task
            if span.is_kept:
                self._tell_end(span, live.generation, live.content, _about_run(live))
            span.end()

    async def settle(self, generation: Generation, outcome: Outcome) -> None:
        """See Runner."""
        span = self._begin(generation, None, None, streamed=False)
        token = current.set(span)
        try:
            await super().settle(generation, outcome)
        finally:
            current.reset(token)
            if span.is_kept:
                self._tell_end(span, finished(generation, outcome), None, ())
            span.end()

    def _begin(self, generation: Generation, content: Content | None, above: Span | None, *, streamed: bool) -> Span:
        operation = OPERATIONS.get(generation.kind) or _operation(content)
        about: Told = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": generation.model,
            "gen_ai.request.stream": streamed,
            "gen_ai.response.id": generation.id,
            "loquent.kind": generation.kind,
            "loquent.surface": generation.surface,
            "loquent.mode": generation.mode,
            "loquent.attempt": generation.attempts,
        }
        under = above or (generation.details or {}).get(CARRIED)
        kind = INTERNAL if above is not None else CONSUMER
        return self._tracer.begin(f"{operation} {generation.model}", kind, under, about)

    def _tell_end(self, span: Span, generation: Generation, content: Content | None, run: Iterable[Fact]) -> None:
        """What the record says of it now: also that it goes on later, or was taken over."""
        span.tell(dict((*_about(generation), *run)))
        if self._tells_content and content is not None:
            span.tell(_words(content))
        if generation.status == FAILED or (generation.error_code and not generation.is_over):
            span.fail(generation.error_code or FAILED, generation.error_message or "")


class TracedTry(Try):
    """Tells of one try of an engine, from its place in the line to its end."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, offer: Offer, tracer: Tracer) -> None:
        super().__init__(offer)
        self._tracer = tracer
        self._span: Span | None = None

    async def begin(
        self, called: Model, ask: Ask, asker: str, *, until: float, first_by: float, is_patient: bool = False
    ) -> Chunk | None:
        """See Try."""
        model = self.offer.model
        about = {"loquent.model": self.offer.label, "loquent.engine": model.engine, "loquent.model.id": model.id}
        self._span = self._tracer.begin(f"try {self.offer.label}", CLIENT, current.get(), about)
        token = current.set(self._span)
        try:
            return await super().begin(called, ask, asker, until=until, first_by=first_by, is_patient=is_patient)
        finally:
            current.reset(token)

    async def end(self, fault: BaseException | None) -> None:
        """See Try."""
        try:
            await super().end(fault)
        finally:
            span, self._span = self._span, None
            if span is not None:
                if self._entered_at is not None:
                    span.tell({"loquent.waited_seconds": round(self._entered_at - self._began_at, 6)})
                if isinstance(fault, LoquentError):
                    span.fail(fault.code, fault.message)
                elif fault is not None:  # its caller left, or cut it short
                    span.tell({"loquent.outcome": "cut short"})
                span.end()


class TracedStore:
    """A store, and a span for each write that belongs to one: reads are quick, and followers read without end."""

    def __init__(self, store: Store, tracer: Tracer, system: str) -> None:
        self._store = store
        self._tracer = tracer
        self._system = system

    def __getattr__(self, name: str) -> Any:
        """Everything else is the store's own."""
        return getattr(self._store, name)

    def figures(self) -> Mapping[str, float]:
        """See Watched: not every Python finds by itself what is looked up elsewhere."""
        return figures_of(self._store)

    async def write(self, *changes: Change) -> None:
        """See the port."""
        above = current.get()
        if above is None or not above.is_kept:
            await self._store.write(*changes)
            return
        about: Told = {
            "db.system.name": self._system,
            "db.operation.name": "write",
            "db.operation.batch.size": len(changes),
            "db.collection.name": ", ".join(sorted({_table(change) for change in changes})),
        }
        span = self._tracer.begin("store write", CLIENT, above, about)
        try:
            await self._store.write(*changes)
        except LoquentError as error:
            span.fail(error.code, error.message)
            raise
        finally:
            span.end()


def told_writes(store: Store, tracer: Tracer, system: str) -> Store:
    """The store, its writes told. ``system``: what OpenTelemetry calls the database."""
    return cast(Store, TracedStore(store, tracer, system))


def told_tries(connect: Callable[[Model], Offer], tracer: Tracer) -> Callable[[Model], Offer]:
    """Offers whose tries are told."""

    def offer(row: Model) -> Offer:
        made = connect(row)
        made.tries = lambda way: TracedTry(way, tracer)
        return made

    return offer


def _operation(content: Content | None) -> str:
    return "text_completion" if content is not None and "prompt" in content.input else "chat"


def _about(generation: Generation) -> Iterator[Fact]:
    yield "loquent.status", generation.status
    if generation.prompt_tokens is not None and generation.is_over:
        yield "gen_ai.usage.input_tokens", generation.prompt_tokens
        yield "gen_ai.usage.output_tokens", generation.completion_tokens or 0
    if generation.finish_reason:
        yield "gen_ai.response.finish_reasons", (generation.finish_reason,)
    if generation.answered_by:
        yield "gen_ai.response.model", generation.answered_by
    if generation.session:
        yield "gen_ai.conversation.id", blake2b(generation.session.encode(), digest_size=8).hexdigest()  # it is a key
    for name, attribute in PARAMETERS.items():
        if name in generation.parameters:
            yield attribute, generation.parameters[name]
    details = generation.details or {}
    if cached := details.get("cached_tokens"):
        yield "gen_ai.usage.cache_read.input_tokens", cached
    if reasoning := details.get("reasoning_tokens"):
        yield "gen_ai.usage.reasoning.output_tokens", reasoning
    if "cache" in details:
        yield "loquent.cache", "hit" if details["cache"]["hit"] else "miss"


def _about_run(live: Live) -> Iterator[Fact]:
    began = live.generation.started_at or live.generation.created_at
    yield "gen_ai.provider.name", (live.trail[-1].offer if live.trail else live.offer).model.engine
    if live.first_at is not None:
        yield "gen_ai.response.time_to_first_chunk", max(0, live.first_at - began) / SECOND
    if live.stopped is not None:
        yield "loquent.stopped", live.stopped
    if live.is_job and live.generation.attempts <= 1:
        yield "loquent.waited_seconds", max(0, began - live.generation.created_at) / SECOND


def _words(content: Content) -> Told:
    asked: Mapping[str, Any] = content.input
    said = asked.get("messages") or [{"role": "user", "content": asked[name]} for name in SAID if name in asked]
    messages = [_message(each.get("role", "user"), str(each.get("content", ""))) for each in said]
    return {
        "gen_ai.input.messages": json.dumps(messages, ensure_ascii=False),
        "gen_ai.output.messages": json.dumps([_message("assistant", content.output)], ensure_ascii=False),
    }


def _message(role: str, text: str) -> Told:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _table(change: Change) -> str:
    return RECORDS[type(change.old if isinstance(change, Replace) else change.record)].table
