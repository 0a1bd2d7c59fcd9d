"""Retention: what has been kept as long as its rule says goes, in small batches, beside the requests."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loquent.domain import documents, images
from loquent.domain.clock import SECOND, Moment, now
from loquent.domain.documents import Document, DocumentText
from loquent.domain.errors import LoquentError
from loquent.domain.generations import Generation
from loquent.domain.images import Image
from loquent.domain.log import Log
from loquent.domain.sessions import Session, closed
from loquent.domain.users import User
from loquent.ports.blobs import Blobs
from loquent.ports.store import MOST_CHANGES, Change, Remove, Replace, Store
from loquent.services import metrics
from loquent.services.answers import Answers
from loquent.services.due import Due, number, some_of
from loquent.services.erasure import Erased, erase, erase_session, said_of, turns_of, write_units
from loquent.services.history import batches
from loquent.services.metrics import meter

log = Log("loquent.retention")

KINDS = (
    *("sessions", "turns", "generations", "documents", "images", "feedback"),
    *("repeats", "expired", "blobs", "logs"),
)
"""What is counted. ``expired``: sessions closed, not removed; ``blobs``: those that a crash left without a record."""
COMMAND = "loquent store sweep --force"
LISTED = 200  # files whose records are looked for at once
LEAST = 100  # records of a kind below which no share of them is too large
AGE = 12  # digits of an id that say when, in milliseconds
NEVER = "g"  # behind all of them
ORPHANS = 100_000  # blobs without a record that one pass removes
NUMBER = re.compile(r"\.\d+")  # what a log file's name ends with when it was rotated away
FIRST = 30.0  # seconds after the start at most, until the first pass
DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Rules:
    """How long things are kept: days, 0 for ever. ``share``: of a kind, that one pass may remove."""

    sessions: float = 0.0
    generations: float = 0.0
    uploads: float = 0.0
    logs: float = 0.0
    session_minutes: float = 30.0
    blob_grace: float = 3600.0  # seconds
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What a pass removed, or would, by kind; and what it refuses to remove, being so much of its kind."""

    counts: Mapping[str, int]
    refused: Mapping[str, int]


@dataclass(slots=True)
class _Pass:
    """One pass: what it may do, and what has come of it so far."""

    acts: bool
    force: bool
    began: Moment = field(default_factory=now)
    counts: Counter[str] = field(default_factory=Counter)
    refused: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def counting(self, **kinds: str) -> Iterator[Erased]:
        """Count what goes within, each kind by the name of it there, also where it is cut off."""
        erased = Erased()
        try:
            yield erased
        finally:
            self.counts.update({kind: getattr(erased, name) for kind, name in kinds.items()})

    def cutoff(self, days: float) -> Moment | None:
        """What is from then or before has been kept for so many days; None: for ever."""
        return self.ago(days * DAY) if days else None

    def ago(self, seconds: float) -> Moment:
        """So many seconds before it began."""
        return Moment(self.began - math.ceil(seconds * SECOND))


class Retention:
    """Removes what is kept no longer, of everybody. Any number of processes may do it at once, harmlessly."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        rules: Rules,
        *,
        answers: Answers | None = None,
        log_path: Path | None = None,
        seconds: float = 0.0,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._rules = rules
        self._answers = answers
        self._log_path = log_path
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self._due = Due(store)
        self._oldest = NEVER

    async def open(self) -> None:
        """Begin to sweep every so many seconds."""
        if self._seconds:
            self._task = asyncio.create_task(self._again_and_again(), name="retention")

    async def close(self) -> None:
        """Stop; what a write has done is done, the rest is for the next pass."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def plan(self, *, force: bool = False) -> Swept:
        """What a sweep would do now; nothing is changed."""
        return await self._run(_Pass(acts=False, force=force))

    async def sweep(self, *, force: bool = False) -> Swept:
        """Remove what is kept no longer. ``force``: whatever share of its kind that is.

        Raises what the store or the blobs raise, when all has been tried.
        """
        return await self._run(_Pass(acts=True, force=force))

    async def _again_and_again(self) -> None:
        wait = min(FIRST, self._seconds)
        while True:
            await asyncio.sleep(wait)
            wait = self._seconds
            try:
                await self.sweep()
                metrics.sweeps.labels("done").inc()
                continue
            except LoquentError as error:
                log.warning("not everything could be swept", why=error.message)
            except Exception:
                log.exception("not everything could be swept")
            metrics.sweeps.labels("failed").inc()

    async def _run(self, this: _Pass) -> Swept:
        fault: LoquentError | None = None
        try:
            for rule in (
                *(self._look_back, self._sessions, self._generations, self._uploads),
                *(self._repeats, self._expired, self._orphans),
            ):
                try:
                    await rule(this)
                except LoquentError as error:
                    fault = fault or error
            await self._logs(this)
        finally:
            if this.acts:
                _tell(this)  # also of a pass that was cut off
        if fault is not None:
            raise fault
        return Swept({kind: this.counts[kind] for kind in KINDS}, this.refused)

    # The rules

    async def _sessions(self, this: _Pass) -> None:
        until = this.cutoff(self._rules.sessions)
        if until is None or not await self._may(this, "sessions", Session, await number(self._due.quiet(until))):
            return
        async for session in self._due.quiet(until):
            if this.acts:
                with this.counting(turns="generations", sessions="sessions", feedback="feedback") as erased:
                    await erase_session(self._store, session, erased)
                continue
            left = 0
            async for some in turns_of(self._store, session):
                over = [each for each in some if each.is_over]
                left += len(some) - len(over)
                this.counts.update(turns=len(over), feedback=sum(each.rating is not None for each in over))
            if not left:
                this.counts.update(sessions=1, feedback=await number(said_of(self._store, session)))

    async def _generations(self, this: _Pass) -> None:
        until = this.cutoff(self._rules.generations)
        if until is None or not await self._may(this, "generations", Generation, await number(self._due.lone(until))):
            return
        async for some in some_of(self._due.lone(until)):
            if this.acts:
                with this.counting(generations="generations", feedback="feedback") as erased:
                    await erase(self._store, some, erased, answers=self._answers)
            else:
                rated = sum(each.rating is not None for each in some)
                this.counts.update(generations=len(some), feedback=rated)

    async def _uploads(self, this: _Pass) -> None:
        until = this.cutoff(self._rules.uploads)
        for name, kind, prefix in (("documents", Document, documents.PREFIX), ("images", Image, images.PREFIX)):
            if until is None or not await self._may(
                this, name, kind, await number(self._due.uploaded(kind, prefix, until))
            ):
                continue
            async for some in some_of(self._due.uploaded(kind, prefix, until)):
                for few in batches(some, lambda each: getattr(each, "characters", 0)):
                    if this.acts:
                        await self._forget(this, name, few)
                    else:
                        this.counts[name] += len(few)

    async def _repeats(self, this: _Pass) -> None:
        async for some in some_of(self._due.repeats(this.began)):
            units: list[list[Change]] = [[Remove(each)] for each in some]
            this.counts["repeats"] += len(await write_units(self._store, units) if this.acts else some)

    async def _expired(self, this: _Pass) -> None:
        gone = None if "sessions" in this.refused else this.cutoff(self._rules.sessions)
        async for some in some_of(self._due.open(this.ago(self._rules.session_minutes * 60), gone)):
            units: list[list[Change]] = [[Replace(each, closed(each))] for each in some]
            this.counts["expired"] += len(await write_units(self._store, units) if this.acts else some)

    async def _orphans(self, this: _Pass) -> None:
        total = 0
        keys: list[str] = []
        kept = self._blobs.list(until=this.ago(self._rules.blob_grace))
        async for some in some_of(kept, LISTED):
            known = [each.key for each in some if each.key.partition("/")[0] in FOLDERS]
            total += len(known)
            keys += [key for key in await self._without_record(known) if len(keys) < ORPHANS]
        if not self._is_share(this, "blobs", len(keys), total):
            return
        for key in self._of_this_store(this, keys):
            if this.acts:
                if not await self._without_record([key]):
                    continue  # its upload was only slow
                await self._blobs.remove(key)
            this.counts["blobs"] += 1

    async def _logs(self, this: _Pass) -> None:
        until = this.cutoff(self._rules.logs)
        if until is not None and self._log_path is not None:
            this.counts["logs"] = await asyncio.to_thread(_rotated, self._log_path, until, this.acts)

    # How they go

    async def _forget(self, this: _Pass, name: str, uploads: list[Any]) -> None:
        """Erase uploads: the records, then their blobs; one that has changed meanwhile stays."""
        for start in range(0, len(uploads), MOST_CHANGES // 2):
            few = uploads[start : start + MOST_CHANGES // 2]
            texts = {each.id: each for each in await self._store.get(DocumentText, *(one.id for one in few))}
            units: list[list[Change]] = [
                [Remove(each), *([Remove(texts[each.id])] if each.id in texts else ())] for each in few
            ]
            for unit in await write_units(self._store, units):
                this.counts[name] += 1
                if isinstance(unit[0], Remove):
                    await self._blobs.remove(unit[0].record.blob)

    async def _without_record(self, keys: list[str]) -> list[str]:
        found: set[str] = set()
        for folder, kind in FOLDERS.items():
            named = [id for place, _, id in (key.partition("/") for key in keys) if place == folder]
            found |= {each.blob for each in (await self._store.get(kind, *named) if named else ())}
        return [key for key in keys if key not in found]

    async def _look_back(self, this: _Pass) -> None:
        """Remember when the oldest record was made, before the rules remove any; what is added later is younger."""
        kinds: tuple[type[Any], ...] = (User, Generation, Document, Image)
        for kind in kinds if self._oldest == NEVER else ():
            page = await self._store.page(kind, "all", {}, limit=1)
            self._oldest = min([self._oldest, *(_made_at(each.id) for each in page.items)])

    def _of_this_store(self, this: _Pass, keys: list[str]) -> list[str]:
        """Those that may be this store's. What is older than all its records is of another, whose time may come."""
        ours = [key for key in keys if this.force or _made_at(key) >= self._oldest]
        if len(ours) < len(keys):
            this.refused["strays"] = len(keys) - len(ours)
            if this.acts:
                log.warning(
                    "files older than every record are not removed without being told: is this their database?",
                    files=this.refused["strays"],
                    command=COMMAND,
                )
        return ours

    async def _may(self, this: _Pass, name: str, kind: type[Any], due: int) -> bool:
        """Whether so many may go. Counts no more of the kind than it takes to know."""
        if this.force or not due:
            return True
        enough = math.ceil(due / self._rules.share) if self._rules.share else LEAST
        total = await self._store.count(kind, "all", {}, cap=max(LEAST, enough))
        return self._is_share(this, name, due, total)

    def _is_share(self, this: _Pass, name: str, due: int, total: int) -> bool:
        if this.force or not due or total < LEAST or due <= self._rules.share * total:
            return True
        this.refused[name] = due
        if this.acts:
            log.warning(
                "so much at once is not removed without being told",
                kind=name,
                due=due,
                share=self._rules.share,
                command=COMMAND,
            )
        return False


FOLDERS: Mapping[str, type[Any]] = {"documents": Document, "images": Image}
"""The record behind a blob, by the first part of its key; keys of other folders are not ours to judge."""


def _made_at(key: str) -> str:
    """When what an id is of was made: what its digits begin with, so that those of every kind can be compared."""
    return key.rpartition("_")[2][:AGE]


def _tell(this: _Pass) -> None:
    """The audit's line, and the metrics; nothing where nothing went."""
    went = {kind: count for kind in KINDS if (count := this.counts[kind])}
    for kind, count in went.items():
        meter(metrics.swept, kind).inc(count)
    if went:
        log.info("swept", forced=this.force, **went)


def _rotated(path: Path, until: Moment, acts: bool) -> int:
    """Count, or remove, the files that were rotated away from that one, and last written then or before."""
    count = 0
    for each in path.parent.iterdir() if path.parent.is_dir() else ():
        is_one = each.name.startswith(path.name) and NUMBER.fullmatch(each.name.removeprefix(path.name))
        if is_one and each.is_file() and each.stat().st_mtime_ns // 1_000 <= until:
            if acts:
                each.unlink(missing_ok=True)
            count += 1
    return count
