"""A try: one call of one engine, from its place in the line before it to its end, and what the record tells of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import replace
from typing import cast

from loquent.domain.errors import EngineTimeout, LoquentError, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.models import Model
from loquent.domain.usage import Usage
from loquent.ports.engine import Ask, Chunk
from loquent.services.breaker import tells
from loquent.services.models import Offer

SLACK = 0.05  # seconds behind a deadline, which is the engine's own to keep
MOST_TOKENS = 1_000_000_000  # of one call


class Try:
    """``begin`` it, take the rest of its ``chunks``, ``end`` it whatever happens: so long it has its slot."""

    __slots__ = (
        "_began_at",
        "_entered_at",
        "_has_begun",
        "_is_patient",
        "_is_short",
        "_is_trial",
        "_late_at",
        "chunks",
        "code",
        "offer",
        "seconds",
    )

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.chunks: AsyncGenerator[Chunk, None] | None = None  # None: the engine has not been called
        self.seconds = 0.0
        self.code: str | None = None  # of the fault that ended it
        self._began_at = time.monotonic()
        self._entered_at: float | None = None  # the gate
        self._late_at = 0.0
        self._has_begun = self._is_trial = False
        self._is_patient = False
        self._is_short = False  # it has so little time that being late says nothing

    async def begin(
        self, called: Model, ask: Ask, asker: str, *, until: float, first_by: float, is_patient: bool = False
    ) -> Chunk | None:
        """The first piece of the answer; None: it has none. Raises what kept it away, and then it has ended.

        ``called``: the row that the caller named. By the monotonic clock, ``until`` is the end of its time, and
        ``first_by`` of that for the first piece. ``is_patient``: see Gate.
        """
        way = self.offer
        try:
            if way.gate is not None:
                self._is_patient = is_patient
                self._entered_at = await way.gate.enter(asker, first_by - self._began_at, is_patient=is_patient)
                if wait := way.breaker.wait():  # others failed while this one was in line
                    raise Resting(way, wait)
            present = self._began_at if self._entered_at is None else time.monotonic()
            ask = self._asked(called, ask, present, until - present)
            seconds = first_by - present
            is_cut = seconds < way.model.timeouts.total * 0.99
            self._is_short = is_cut and seconds < min(way.model.timeouts.total * 0.49, way.model.timeouts.first)
            self._is_trial = way.breaker.enter()
            self.chunks = cast(AsyncGenerator[Chunk, None], way.engine.stream(ask))  # engines are generators
            chunk = await (_within(seconds, anext(self.chunks), way) if is_cut else anext(self.chunks))
        except StopAsyncIteration:
            return None
        except BaseException as fault:
            await self.end(fault)
            raise
        self._has_begun = True
        if self._is_trial:
            way.breaker.close()
            self._is_trial = False
        return chunk

    async def end(self, fault: BaseException | None) -> None:
        """Free what it holds. ``fault``: what ended it; None: its answer was whole."""
        way = self.offer
        try:
            if self.chunks is not None:
                await self.chunks.aclose()
        finally:
            self.seconds = time.monotonic() - self._began_at
            if isinstance(fault, LoquentError):
                self.code = fault.code
            if self.chunks is not None:
                way.breaker.leave(self._tells(fault), is_trial=self._is_trial)
            if way.gate is not None and self._entered_at is not None:
                way.gate.leave(self._entered_at, is_patient=self._is_patient)

    def price(self, usage: Usage) -> Usage | None:
        """With its cost, as the engine says or by the price of its row. None where no engine can have used so much."""
        if max(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens) > MOST_TOKENS:
            return None  # then we count
        return usage if usage.cost is not None else evolve(usage, cost=self.offer.model.price.of(usage))

    def _asked(self, called: Model, ask: Ask, present: float, left: float) -> Ask:
        """The ask as this engine is to see it: its own row under the caller's name for it, and the time that is left.

        Nearly always that is the ask as it came.
        """
        model = self.offer.model
        total = model.timeouts.total
        if left < total * 0.99:
            total = max(0.001, left)
            model = replace(model, timeouts=replace(model.timeouts, total=total))
        self._late_at = present + total
        if model.name != called.name:
            model = replace(model, name=called.name)
        parameters = ask.parameters.over(model.defaults)
        if model is ask.model and parameters is ask.parameters:
            return ask
        return evolve(ask, model=model, parameters=parameters)

    def _tells(self, fault: BaseException | None) -> bool | None:
        """What the end says of the engine's health: see ``tells``.

        Nothing where it had too little of its time, nor where it spoke until its time was over.
        """
        if isinstance(fault, EngineTimeout):
            is_long = self._has_begun and time.monotonic() >= self._late_at - SLACK
            return None if self._is_short or is_long else False
        return tells(fault)


async def _within(seconds: float, first: Awaitable[Chunk], way: Offer) -> Chunk:
    """Where it has less time than its row says; the engine's own deadlines know nothing of that."""
    try:
        async with asyncio.timeout(seconds + SLACK):
            return await first
    except TimeoutError as late:
        raise EngineTimeout(f"model {way.label}: the engine did not begin to answer in time") from late


class Resting(Unavailable):
    """The engine is not asked, since its breaker is open: ``retry_after`` seconds from now it may be."""

    def __init__(self, way: Offer, wait: float) -> None:
        super().__init__(f"model {way.label}: its engine failed too often and is left alone", retry_after=wait)


def told(trail: Sequence[Try]) -> list[dict[str, object]]:
    """The tries, as the record keeps them."""
    return [
        {
            "model": each.offer.label,
            "engine": each.offer.model.engine,
            "seconds": round(each.seconds, 3),
            **({"error": each.code} if each.code else {}),
        }
        for each in trail
    ]


def priced(usage: Usage, trail: Sequence[Try], called: Model) -> int:
    """What a use costs: as whoever answered said, or by the price of the last who was asked."""
    if usage.cost is not None:
        return usage.cost
    return (trail[-1].offer.model if trail else called).price.of(usage)
