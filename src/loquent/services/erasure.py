"""Erasure: what belongs together goes together. A generation with its texts and feedback; a session with its turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from loquent.domain import ids
from loquent.domain.clock import later
from loquent.domain.errors import Stale
from loquent.domain.evolve import evolve
from loquent.domain.feedback import Feedback
from loquent.domain.generations import Content, Generation
from loquent.domain.sessions import Session, closed
from loquent.ports.store import MOST_CHANGES, Change, Position, Remove, Replace, Store
from loquent.services.answers import Answers
from loquent.services.history import SLACK, batches, characters

STEP = 100  # records in one query
EACH = 3  # changes at most that the erasure of one generation takes: itself, its texts, its feedback


@dataclass(slots=True)
class Erased:
    """How much went, so far."""

    sessions: int = 0
    generations: int = 0
    feedback: int = 0


async def erase(
    store: Store, generations: Sequence[Generation], done: Erased, *, answers: Answers | None = None
) -> None:
    """Erase those of them that are over and have not changed since they were read, few in one write.

    ``answers`` forget them first; None: they are turns, which are never kept there.
    """
    over = [each for each in generations if each.is_over]
    if answers is not None:
        await answers.forget(over)
    for some in batches(over, characters):
        for start in range(0, len(some), MOST_CHANGES // EACH):
            few = some[start : start + MOST_CHANGES // EACH]
            texts = {each.id: each for each in await store.get(Content, *(one.id for one in few))}
            units: list[list[Change]] = []
            for each in few:
                said = await _feedback(store, each)
                beside = [*([texts[each.id]] if each.id in texts else ()), *said]
                units.append([Remove(each), *map(Remove, beside)])
            for unit in await write_units(store, units):
                done.generations += 1
                done.feedback += sum(isinstance(change.record, Feedback) for change in unit if type(change) is Remove)


async def erase_session(store: Store, session: Session, done: Erased | None = None) -> Erased:
    """Erase a session with its turns and all feedback; it takes no messages any more from the first write on.

    It stays, closed, where one of its turns still runs or something was said meanwhile: then it is done again later.
    What has gone is counted in ``done``, also where it is cut off in the midst.
    """
    done = done or Erased()
    try:
        await store.write(Replace(session, closed(evolve(session))))  # from here on nobody speaks in it
    except Stale:
        return done
    session = evolve(session, is_active=False, version=session.version + 1)
    left, before = 0, done.generations
    async for some in turns_of(store, session):
        left += len(some)
        await erase(store, some, done)
    if left > done.generations - before:
        return done
    said = [each async for each in said_of(store, session)]
    while len(said) >= MOST_CHANGES:
        units: list[list[Change]] = [[Remove(each)] for each in said[: MOST_CHANGES - 1]]
        done.feedback += len(await write_units(store, units))
        said = said[MOST_CHANGES - 1 :]
    if await write_units(store, [[Remove(session), *map(Remove, said)]]):
        done.sessions += 1
        done.feedback += len(said)
    return done


async def turns_of(store: Store, session: Session) -> AsyncIterator[list[Generation]]:
    """Every generation of a session, newest first, some at a time; also those in whose place another was made.

    No order lists the latter, which have lost their number. But all of them are chats, and were made while it lasted.
    """
    own = {"tenant": session.tenant, "owner": session.owner}
    first = ids.floor("gen", later(session.created_at, -SLACK))
    last = await store.page(Generation, "turns", {**own, "session": session.id}, limit=1, back=True)
    start = max([ids.floor("gen", later(session.last_active_at, SLACK)), *(f"{each.id}~" for each in last.items)])
    while True:
        after = Position(start, start)
        page = await store.page(Generation, "kind", {**own, "kind": "chat"}, limit=STEP, after=after)
        if some := [each for each in page.items if each.session == session.id]:
            yield some
        if not page.more or page.items[-1].id < first:
            return
        start = page.items[-1].id


async def said_of(store: Store, session: Session) -> AsyncIterator[Feedback]:
    """What was said of a session as a whole."""
    own = {"tenant": session.tenant, "owner": session.owner, "session": session.id}
    after: Position | None = None
    while True:
        page = await store.page(Feedback, "session", own, limit=STEP, after=after)
        for each in page.items:
            yield each
        if not page.more:
            return
        after = Position(page.items[-1].id, page.items[-1].id)


async def write_units(store: Store, units: Sequence[list[Change]]) -> list[list[Change]]:
    """Write them together, or, where one of them has changed since it was read, each by itself; those that went."""
    if not units:
        return []
    with suppress(Stale):
        await store.write(*chain.from_iterable(units))
        return list(units)
    if len(units) == 1:
        return []
    return [unit for each in units for unit in await write_units(store, [each])]


async def _feedback(store: Store, generation: Generation) -> list[Feedback]:
    if generation.rating is None:
        return []
    at = {"tenant": generation.tenant, "owner": generation.owner, "generation": generation.id}
    found = await store.find(Feedback, "generation", at)
    return [found] if found else []
