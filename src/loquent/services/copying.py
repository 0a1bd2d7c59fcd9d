"""Copying: every record, or every file, of one place into another. Nothing is removed there or overwritten here."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loquent.domain.clock import later, now
from loquent.domain.errors import Conflict, Taken
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation
from loquent.domain.records import RECORDS, Spec
from loquent.ports.blobs import Blobs, Kept
from loquent.ports.store import MOST_CHANGES, Add, Bump, Change, Position, Store
from loquent.services.due import some_of

FILES = 8  # copied at once
AHEAD = 24 * 3600  # seconds by which the clock of a bucket may be ahead


@dataclass(slots=True)
class Copied:
    """How much was copied, was there already, or is there otherwise and was left so; by kind."""

    made: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    differ: Counter[str] = field(default_factory=Counter)


async def copy_records(source: Store, target: Store, copied: Copied) -> None:
    """Every record; what an earlier try has brought is passed over. Nobody may write to the source meanwhile.

    Raises Conflict where a record of the target's own is in the way, and what the stores raise.
    """
    for kind in sorted(RECORDS, key=lambda kind: kind is Generation):  # the job last: all that it needs is there then
        after: Position | None = None
        while True:
            page = await source.page(kind, "all", {}, limit=MOST_CHANGES, after=after)
            await _copy_some(RECORDS[kind], page.items, target, copied)
            if not page.more:
                break
            after = Position(page.items[-1].id, page.items[-1].id)


async def _copy_some(spec: Spec, records: Sequence[Any], target: Store, copied: Copied) -> None:
    known = {each.id: each for each in await target.get(spec.type, *(each.id for each in records))} if records else {}
    changes = list(_changes(spec, [each for each in records if each.id not in known]))
    try:
        await target.write(*changes)
    except Taken as error:
        raise Conflict(
            f"one of the {spec.table} cannot be copied: its {error.key} is another's there; copy into an empty place"
        ) from error
    copied.made[spec.table] += len(changes)
    for each in records:
        if each.id in known:
            (copied.there if _same(spec, each, known[each.id]) else copied.differ)[spec.table] += 1


def _changes(spec: Spec, records: Sequence[Any]) -> Iterator[Change]:
    for each in records:
        if spec.counters:
            zero = evolve(each, **dict.fromkeys(spec.counters, 0))
            yield Bump(zero, {name: getattr(each, name) for name in spec.counters})
        else:
            yield Add(each)


def _same(spec: Spec, one: Any, other: Any) -> bool:
    """Whether they say the same; a version is each store's own."""
    return all(getattr(one, name) == getattr(other, name) for name in spec.names if name != "version")


async def copy_files(source: Blobs, target: Blobs, copied: Copied) -> None:
    """Every file; one that is there with the same size is passed over. Raises what the blobs raise."""
    until = later(now(), AHEAD)
    known = {each.key: each.size async for each in target.list(until=until)}
    async for some in some_of(source.list(until=until), FILES):
        new = [each for each in some if known.get(each.key) != each.size]
        copied.there["files"] += len(some) - len(new)
        done = await asyncio.gather(*(_copy_file(each, source, target) for each in new), return_exceptions=True)
        copied.made["files"] += done.count(None)
        for fault in done:
            if fault is not None:
                raise fault  # when none of them is under way any more


async def _copy_file(kept: Kept, source: Blobs, target: Blobs) -> None:
    handle, name = await asyncio.to_thread(tempfile.mkstemp, prefix="loquent-copy-")
    try:
        with os.fdopen(handle, "wb") as file:
            async for piece in source.get(kept.key):
                await asyncio.to_thread(file.write, piece)
        await target.put(kept.key, Path(name))
    finally:
        await asyncio.to_thread(Path(name).unlink, missing_ok=True)
