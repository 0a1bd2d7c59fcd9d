"""Routing: who answers a call, and who in his place.

Equal rows share the calls by weight, a fault that may pass is tried again, a breaker that is open or an engine that
fails hands over to the fallback: all of that before the first piece of the answer, never after.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence

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
from loquent.ports.engine import Ask, Chunk
from loquent.services import metrics
from loquent.services.models import Offer
from loquent.services.tries import Resting, Try

PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds before the first further try, doubled for each; jitter takes up to half of it
PATIENCE = 2.0  # seconds of Retry-After that are waited for where nobody else can answer
LATER = 1.1  # of a Retry-After, at most: not everybody comes again at the same moment
SOON = 1.0  # seconds after which a caller may try again, where nobody said how long it takes


async def stream(
    offer: Offer, ask: Ask, trail: list[Try], *, asker: str = "", is_patient: bool = False
) -> AsyncGenerator[Chunk, None]:
    """The answer of whoever can give it; ``trail`` is told what was tried. Usage carries its cost.

    ``is_patient``: nobody waits for this very answer: see Gate.

    Raises the fault that ended it after its first piece, or the asker's own; otherwise, when nobody could answer,
    the fault of the only one who was asked, or Unavailable with the seconds after which somebody may.
    """
    tried, first = await _begun(offer, ask, trail, asker, is_patient)
    fault: BaseException | None = None
    try:
        if first is not None and tried.chunks is not None:
            if first.usage is not None:
                first.usage = tried.price(first.usage)
            yield first
            async for chunk in tried.chunks:
                if chunk.usage is not None:
                    chunk.usage = tried.price(chunk.usage)
                yield chunk
        if tried.offer.model.name != offer.model.name:
            metrics.fallbacks.labels(offer.model.name, tried.offer.label).inc()
    except BaseException as ended:
        fault = ended
        if isinstance(ended, LoquentError):
            _note(tried.offer, ended)
        raise
    finally:
        await tried.end(fault)


async def _begun(offer: Offer, ask: Ask, trail: list[Try], asker: str, is_patient: bool) -> tuple[Try, Chunk | None]:
    """The try that answers, and the first piece that it gave. Raises as ``stream``.

    Where somebody else can answer, half of the time is kept for that: the first piece has to be there by then.
    """
    deadline = time.monotonic() + offer.model.timeouts.total
    faults: list[LoquentError] = []
    ways = _in_turn(offer)
    for number, way in enumerate(ways, 1):
        others = ways[number:]
        for attempt in range(way.model.retries + 1):
            if wait := way.breaker.wait():
                faults.append(Resting(way, wait))
                break
            tried: Try = Try(way) if way.tries is None else way.tries(way)
            trail.append(tried)
            try:
                first_by = (time.monotonic() + deadline) / 2 if _can_any(others) else deadline
                begun = tried.begin(offer.model, ask, asker, until=deadline, first_by=first_by, is_patient=is_patient)
                return tried, await begun
            except LoquentError as fault:
                _note(way, fault)
                if not _may_pass_on(fault, faults):
                    raise
                faults.append(fault)
            pause = _pause(faults[-1], attempt, others)
            if pause is None or attempt == way.model.retries or pause < way.breaker.wait():
                break
            if time.monotonic() + pause > deadline:
                break
            await asyncio.sleep(pause)
        if time.monotonic() >= deadline:
            break
    raise _nobody(offer, faults)


def _in_turn(offer: Offer) -> Sequence[Offer]:
    """Who is asked, in this order: the equals of a name as chance has it, then the next."""
    groups = offer.groups or ((offer,),)
    if len(groups) == 1 and len(groups[0]) == 1:  # as nearly always
        return groups[0]
    return [way for group in groups for way in (group if len(group) == 1 else shuffled(group))]


def shuffled(group: Sequence[Offer]) -> list[Offer]:
    """In an order in which each comes first as often as its weight says; last who rests, before them who is busy.

    Of clocks that ring at random, the first is each as often as its rate says.
    """
    return sorted(
        group,
        key=lambda way: (
            way.breaker.wait() > 0,
            way.gate is not None and way.gate.is_full,
            random.expovariate(way.model.weight),
        ),
    )


def _can_any(ways: Sequence[Offer]) -> bool:
    return any(not way.breaker.wait() for way in ways)


def _may_pass_on(fault: LoquentError, earlier: Sequence[LoquentError]) -> bool:
    """Whether somebody else may do better: not where the asker is at fault, or the answer is not wanted any more.

    What only a stand-in finds wrong is no fault of the asker's, who may have asked it of the first.
    """
    if isinstance(fault, Invalid):
        return bool(earlier)
    return isinstance(fault, Unavailable | EngineTimeout | EngineFailed)


def _note(way: Offer, fault: LoquentError) -> None:
    """Count it, and leave the engine alone for as long as it said."""
    metrics.faults.labels(way.label, fault.code).inc()
    if isinstance(fault, EngineBusy) and fault.engine_status and fault.retry_after and way.has_stand_ins:
        way.breaker.rest(fault.retry_after)


def _pause(fault: LoquentError, attempt: int, others: Sequence[Offer]) -> float | None:
    """Seconds before the same engine is asked again; None: not by this call."""
    if not isinstance(fault, Unavailable) or isinstance(fault, NotYet | NotInstalled | Resting):
        return None
    if isinstance(fault, EngineBusy) and not fault.engine_status:
        return None  # our own line is full: who waits beside it only makes it longer
    if fault.retry_after is not None:
        is_short = fault.retry_after <= PATIENCE and not _can_any(others)
        return fault.retry_after * random.uniform(1, LATER) if is_short else None  # noqa: S311
    longest: float = min(LONGEST_PAUSE, PAUSE * 2**attempt)
    return longest * random.uniform(0.5, 1)  # noqa: S311  (jitter)


def _nobody(offer: Offer, faults: list[LoquentError]) -> LoquentError:
    """What the caller is told when nobody could answer."""
    passing = [fault for fault in faults if isinstance(fault, Unavailable)]
    if not offer.has_stand_ins or not passing:
        return _with_wait(offer, faults[-1])
    waits = [fault.retry_after for fault in passing if fault.retry_after is not None]
    return Unavailable(
        f"model {offer.model.name}: neither its engine nor those that stand in for it can answer now",
        retry_after=min(waits, default=SOON),
    )


def _with_wait(offer: Offer, fault: LoquentError) -> LoquentError:
    """What may pass says when to come again, though the engine did not."""
    if isinstance(fault, Unavailable) and not isinstance(fault, NotInstalled) and fault.retry_after is None:
        fault.retry_after = offer.breaker.wait() or SOON
    return fault
