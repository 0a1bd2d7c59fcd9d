"""Routing: who answers a call. Equal rows share it by weight, a fault that may pass is tried again, a breaker that is
open or an engine that fails hands over to the fallback; all of that before the first piece of the answer, never after.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from loquent.domain.errors import (
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    NotInstalled,
    NotYet,
    Unavailable,
)
from loquent.domain.evolve import evolve
from loquent.domain.models import Model
from loquent.domain.usage import Usage
from loquent.ports.engine import Ask, Chunk
from loquent.services import metrics
from loquent.services.models import Offer

PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds before the first further try, doubled for each; jitter takes up to half of it
PATIENCE = 2.0  # seconds of Retry-After that are waited for where nobody else can answer
SOON = 1.0  # seconds after which a caller may try again, where nobody said how long it takes


@dataclass(slots=True)
class Try:
    """One call of one engine."""

    offer: Offer
    began: float  # of the monotonic clock
    seconds: float = 0.0
    code: str | None = None  # of the fault that ended it


async def stream(offer: Offer, ask: Ask, trail: list[Try], *, asker: str = "") -> AsyncIterator[Chunk]:
    """The answer of whoever can give it; ``trail`` is told what was tried. Usage carries its cost.

    Raises the fault that ended it after its first piece, or the asker's own; otherwise, when nobody could answer,
    the fault of the only one who was asked, or Unavailable with the seconds after which somebody may.
    """
    deadline = time.monotonic() + offer.model.timeouts.total
    faults: list[LoquentError] = []
    for way, is_last in _in_turn(offer):
        for attempt in range(way.model.retries + 1):
            if (wait := way.breaker.wait()) > 0:
                faults.append(_resting(way, wait))
                break
            tried = Try(way, time.monotonic())
            trail.append(tried)
            answered = _answered(way, _asked(offer.model, way, ask, deadline, is_first=len(trail) == 1), tried, asker)
            begun = False
            try:
                async with aclosing(answered) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                return
            except LoquentError as fault:
                _note(way, fault)
                if begun or (isinstance(fault, Invalid) and not faults) or not _may_pass_on(fault):
                    raise
                faults.append(fault)
                pause = _pause(fault, attempt, is_last=is_last)
                if pause is None or time.monotonic() + pause > deadline:
                    break
            await asyncio.sleep(pause)
        if time.monotonic() > deadline:
            break
    raise _nobody(offer, faults)


async def _answered(way: Offer, ask: Ask, tried: Try, asker: str) -> AsyncGenerator[Chunk, None]:
    """One call, within the engine's gate and before its breaker's eyes."""
    entered = None
    if way.gate is not None:
        try:
            async with asyncio.timeout(ask.model.timeouts.total):
                entered = await way.gate.enter(asker)
        except TimeoutError as late:
            raise EngineTimeout(f"model {way.label}: no slot became free in time") from late
    fault: BaseException | None = None
    way.breaker.enter()
    try:
        async with aclosing(way.engine.stream(ask)) as chunks:  # type: ignore[type-var]  # they are generators
            async for chunk in chunks:
                if chunk.usage is not None and chunk.usage.cost is None:
                    chunk.usage = evolve(chunk.usage, cost=way.model.price.of(chunk.usage))
                yield chunk
    except BaseException as error:
        fault = error
        raise
    finally:
        tried.seconds = time.monotonic() - tried.began
        tried.code = fault.code if isinstance(fault, LoquentError) else None
        way.breaker.leave(fault)
        if way.gate is not None:
            way.gate.leave(entered)


def _in_turn(offer: Offer) -> Iterator[tuple[Offer, bool]]:
    """Who is asked, in this order, and whether it is the last: the equals of a name as chance has it, then the next."""
    groups = offer.groups or ((offer,),)
    ways = [way for group in groups for way in (group if len(group) == 1 else shuffled(group))]
    for number, way in enumerate(ways, 1):
        yield way, number == len(ways)


def shuffled(group: Sequence[Offer]) -> list[Offer]:
    """In an order in which each comes first as often as its weight says; who rests comes last (Efraimidis, 2006)."""
    return sorted(
        group,
        key=lambda way: (way.breaker.wait() > 0, -(random.random() ** (1 / way.model.weight))),  # noqa: S311
    )


def _asked(called: Model, way: Offer, ask: Ask, deadline: float, *, is_first: bool) -> Ask:
    """The ask as this engine is to see it: under the caller's name for it, and within the time that is left."""
    model = way.model
    if model.name != called.name:
        model = evolve(model, name=called.name)
    if not is_first:
        left = max(0.001, deadline - time.monotonic())
        model = evolve(model, timeouts=evolve(model.timeouts, total=min(model.timeouts.total, left)))
    parameters = ask.parameters.over(model.defaults)
    if model is ask.model and parameters is ask.parameters:
        return ask
    return evolve(ask, model=model, parameters=parameters)


def _may_pass_on(fault: LoquentError) -> bool:
    """Whether somebody else may do better: not where the asker is at fault, or the answer is not wanted any more."""
    return isinstance(fault, Unavailable | EngineTimeout | EngineFailed | Invalid)


def _note(way: Offer, fault: LoquentError) -> None:
    """Count it, and leave the engine alone for as long as it said."""
    metrics.faults.labels(way.label, fault.code).inc()
    if isinstance(fault, EngineBusy) and fault.engine_status and fault.retry_after and way.has_stand_ins:
        way.breaker.rest(fault.retry_after)


def _pause(fault: LoquentError, attempt: int, *, is_last: bool) -> float | None:
    """Seconds before the same engine is asked again; None: not by this call."""
    if not isinstance(fault, Unavailable) or isinstance(fault, NotYet | NotInstalled):
        return None
    if isinstance(fault, EngineBusy) and not fault.engine_status:
        return None  # our own line is full: who waits beside it only makes it longer
    if fault.retry_after is not None:
        return fault.retry_after if is_last and fault.retry_after <= PATIENCE else None
    longest: float = min(LONGEST_PAUSE, PAUSE * 2**attempt)
    return longest * random.uniform(0.5, 1)  # noqa: S311  (jitter)


def _resting(way: Offer, wait: float) -> Unavailable:
    return Unavailable(f"model {way.model.name}: its engine failed too often and is left alone", retry_after=wait)


def _nobody(offer: Offer, faults: list[LoquentError]) -> LoquentError:
    """What the caller is told when nobody could answer."""
    asked_one = len(offer.groups) <= 1 and all(len(group) == 1 for group in offer.groups)
    passing = [fault for fault in faults if isinstance(fault, Unavailable)]
    if asked_one or not passing:
        return _with_wait(offer, faults[-1])
    waits = [fault.retry_after for fault in passing if fault.retry_after is not None]
    return Unavailable(
        f"model {offer.model.name}: neither its engine nor those that stand in for it can answer now",
        retry_after=min(waits, default=SOON),
    )


def _with_wait(offer: Offer, fault: LoquentError) -> LoquentError:
    """A fault that is answered with 503 says when to come again, though the engine did not."""
    if isinstance(fault, Unavailable) and not isinstance(fault, NotInstalled) and fault.engine_status in (None, 503):
        fault.retry_after = fault.retry_after if fault.retry_after is not None else offer.breaker.wait() or SOON
    return fault


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
