"""Answers that are kept: who asks the same of the same model again is told what was answered before.

Exact: a key is made of everything that may change the answer, and of the tenant, so nothing is shared between two.
Kept is what would come out the same (temperature 0), or what its caller says may be. Equal requests at once make one
call of the engine, and the others wait for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import fields
from typing import Any

import msgspec

from loquent.domain.errors import EngineTimeout
from loquent.domain.evolve import evolve
from loquent.domain.generations import COMPLETED, Generation, Json
from loquent.domain.models import Model
from loquent.domain.usage import Usage
from loquent.ports.engine import CallPiece, Chunk
from loquent.services import metrics
from loquent.services.kept import Answer, Kept
from loquent.services.live import Live
from loquent.services.metrics import meter
from loquent.services.models import Offer
from loquent.services.runner import Recipe

WHOLE = ("stop", "length", "tool_calls")  # length: the same limit, which is in the key, cuts at the same place
FAILURES = 2  # of equal requests that were waited for, after which one asks by itself
ELSEWHERE = (
    *("name", "defaults", "price", "timeouts", "concurrency", "weight"),
    *("fallback", "retries", "users", "key_env", "key_file"),
)
"""Of a row, what changes no answer, or stands in the key by itself."""


class Answers:
    """Tells and keeps them. ``kept`` None: nothing is kept, and every recipe stays as it is."""

    def __init__(self, kept: Kept | None, *, secret: str) -> None:
        self.kept = kept
        self._secret = hashlib.sha256(b"loquent answers " + secret.encode()).digest()  # so that no key can be guessed
        self._flights: dict[str, asyncio.Future[Answer | None]] = {}  # what is being asked now

    def before(self, recipe: Recipe) -> Recipe:
        """The recipe, asked only where the answer is not there already."""
        kept = self.kept
        if kept is None:
            return recipe

        def answer(live: Live) -> AsyncIterator[Chunk]:
            return self._answered(live, recipe, kept) if _may_be_kept(live) else recipe(live)

        return answer

    async def forget(self, generations: Iterable[Generation]) -> None:
        """Drop the answers that these made or were told: to be done before their records go."""
        if keys := [key for each in generations if (key := _key_of(each))]:
            for key in keys:
                self._flights.pop(key, None)  # whoever asks from now on is not told of it
            if self.kept is not None:
                await self.kept.drop(keys)

    async def _answered(self, live: Live, recipe: Recipe, kept: Kept) -> AsyncGenerator[Chunk, None]:
        key = self._key(live)
        live.details["cache"] = {"key": key, "hit": False}
        until, failures = time.monotonic() + live.offer.model.timeouts.total, 0
        while failures < FAILURES and (flight := self._flights.get(key)) is not None:
            answer = await _landed(flight, until)
            if answer is not None:
                for chunk in _told(live, answer, "shared"):
                    yield chunk
                return
            failures += not flight.cancelled()  # a caller who left says nothing about the engine
        flight = asyncio.get_running_loop().create_future()
        self._flights.setdefault(key, flight)
        try:
            answer = await kept.find(key)
            if answer is not None:
                flight.set_result(answer)
                for chunk in _told(live, answer, "hit"):
                    yield chunk
                return
            meter(metrics.cached, "miss").inc()
            async with aclosing(recipe(live)) as chunks:  # type: ignore[type-var]  # they are generators
                async for chunk in chunks:
                    yield chunk
            answer = _worth_keeping(live)
            if answer is not None:
                await kept.keep(key, answer)
            flight.set_result(answer)
        except Exception:
            if not flight.done():
                flight.set_result(None)
            raise
        finally:
            flight.cancel()  # of one that has landed this changes nothing
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _key(self, live: Live) -> str:
        group = _group(live.offer)
        asked = [live.parameters.over(way.model.defaults).asked() for way in group]
        rows = [_row(way.model) for way in group]
        generation = live.generation
        parts = (generation.tenant, live.offer.model.name, rows, asked, generation.kind, live.content.input)
        return hmac.digest(self._secret, msgspec.json.encode(parts, order="deterministic"), "sha256").hex()


def _may_be_kept(live: Live) -> bool:
    """Whether an answer may be told again: on the way of every request, so the usual no comes first."""
    temperature, said = live.parameters.temperature, live.generation.details
    if temperature is None:
        temperature = live.offer.model.defaults.temperature
    if temperature != 0 and said is None:
        return False
    if live.generation.session is not None:
        return False  # a turn: what was said before it counts too
    wish = said.get("cache_asked") if said else None
    if wish is not None:
        return bool(wish)
    return all(live.parameters.over(way.model.defaults).temperature == 0 for way in _group(live.offer))


def _group(offer: Offer) -> tuple[Offer, ...]:
    """The rows whose answer counts as the model's own: the equals of its name, but nobody who stands in for them."""
    return offer.groups[0] if offer.groups else (offer,)


def _row(model: Model) -> dict[str, Any]:
    """What of a row may change an answer; what it does not say is left out, so a new field changes no key."""
    values = ((each.name, getattr(model, each.name)) for each in fields(model) if each.name not in ELSEWHERE)
    return {name: value for name, value in values if value is not None}


async def _landed(flight: asyncio.Future[Answer | None], until: float) -> Answer | None:
    """What came of an equal request; None: nothing that could be told again. Raises EngineTimeout."""
    await asyncio.wait({flight}, timeout=max(0.0, until - time.monotonic()))
    if not flight.done():
        raise EngineTimeout("an equal request, whose answer was waited for, took too long")
    return None if flight.cancelled() else flight.result()


def _told(live: Live, answer: Answer, how: str) -> Iterator[Chunk]:
    """An answer once more, marked and for nothing."""
    meter(metrics.cached, how).inc()
    live.details["cache"]["hit"] = True
    live.answered_by = answer.answered_by
    calls = tuple(CallPiece(at, each.id, each.name, each.arguments) for at, each in enumerate(answer.calls))
    yield Chunk(answer.text, calls=calls, reasoning=answer.reasoning, logprobs=answer.logprobs)
    yield Chunk(finish_reason=answer.finish_reason, usage=answer.usage)


def _worth_keeping(live: Live) -> Answer | None:
    """The answer that has just ended, where it is whole and its model's own."""
    outcome = live.outcome(COMPLETED)
    own = {way.label for way in _group(live.offer)}
    if outcome.finish_reason not in WHOLE or outcome.answered_by not in own or live.spans:
        return None
    usage = live.usage or Usage(outcome.prompt_tokens, outcome.completion_tokens, outcome.usage_estimated)
    return Answer(
        live.generation.id,
        outcome.output,
        outcome.finish_reason,
        evolve(usage, cost=0),  # what it cost, its maker paid
        outcome.answered_by,
        tuple(live.calls[index] for index in sorted(live.calls)),
        "".join(live.reasoning),
        tuple(map(dict, live.logprobs)),
    )


def _key_of(generation: Generation) -> str | None:
    said: Json = (generation.details or {}).get("cache", {})
    return said.get("key")
