"""The parts that the doctor asks, each for a few seconds and all at once: whatever the settings say there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from loquent import blobs, caches, limiters, queues, stores, tracers
from loquent.cli.findings import ANSWER_SECONDS, LOAD_SECONDS, Finding
from loquent.cli.marks import BAD, DOUBT, OK
from loquent.domain.errors import LoquentError, Unavailable
from loquent.domain.urls import without_password
from loquent.ports.blobs import Blobs
from loquent.ports.extras import install
from loquent.ports.store import Store
from loquent.ports.tracer import Tracer
from loquent.services.room import nearest
from loquent.settings import Settings

T = TypeVar("T")


async def parts(settings: Settings) -> dict[str, list[Finding]]:
    """What each says, by the title that it stands under."""
    asked = {
        "Data": (store(settings), files(settings)),
        "Queue": (queue(settings),),
        "Limits and answers": (limiter(settings), cache(settings)),
        "Traces": (traces(settings),),
    }
    said = iter(await asyncio.gather(*(each for under in asked.values() for each in under)))
    return {title: [line for _ in under for line in next(said)] for title, under in asked.items()}


async def store(settings: Settings) -> list[Finding]:
    """The store: its schema, its soundness, and whether it answers; one that is not there yet is not made."""
    shown = without_password(settings.store_url)
    if settings.is_in_memory:
        return [Finding(DOUBT, "records are kept in memory, and gone when the server stops", "unset LOQUENT_STORE")]
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            checked = await stores.check(settings.store_url, settings.data_dir)
    except (LoquentError, OSError) as error:
        return [_away(shown, error, BAD, LOAD_SECONDS)]
    if checked.current is None:
        empty = [Finding(DOUBT, finding, "`loquent serve` makes it, too") for finding in checked.findings]
        return [*empty, *_left_behind(settings)]
    if checked.findings:
        return [Finding(BAD, f"{shown}: {finding}") for finding in checked.findings]

    async def ask(records: Store) -> None:
        try:
            await records.open()
            await records.ready()
        finally:
            await records.close()

    make = partial(stores.connect, settings.store_url, data_dir=settings.data_dir)
    return await _said(shown, make, ask, well=f"sound, revision {checked.current}, answers")


def _left_behind(settings: Settings) -> list[Finding]:
    """Records of before, where the settings name a place that has none yet."""
    old = stores.file_of(replace(settings, store="").store_url)
    if old is None or not old.is_file() or stores.file_of(settings.store_url) == old:
        return []
    do = f"bring them, before a server starts: loquent store copy --records sqlite:///{old}"
    return [Finding(DOUBT, f"{old} holds records, and LOQUENT_STORE names another place", do)]


async def files(settings: Settings) -> list[Finding]:
    """Where uploads are kept: a bucket is asked whether it takes one; a folder that is not there yet is not made."""
    url = settings.blobs_url
    shown = f"uploads: {without_password(url)}"
    folder = blobs.folder_of(url)
    is_there = folder is None or folder.exists()
    if folder is not None and not (place := nearest(folder)).is_dir():
        return [Finding(BAD, f"{shown}: {place} is no folder", "name another in LOQUENT_BLOBS")]

    async def ask(made: Blobs) -> None:
        try:
            if folder is None:
                await made.open()
            if is_there:
                await made.ready()
        finally:
            await made.close()

    well = "can be kept" if is_there else "will be made"
    return await _said(shown, partial(blobs.connect, url), ask, well=well, seconds=2 * ANSWER_SECONDS)


async def queue(settings: Settings) -> list[Finding]:
    """How workers hear of jobs. Without their broker they look by themselves, so that one away is a doubt."""
    shown = without_password(settings.queue_url)
    if shown.startswith("local:"):
        return [Finding(OK, "jobs are told of within a process")]
    make, do = partial(queues.connect, settings.queue_url), "start it; until then workers find jobs by looking"
    return await _said(shown, make, lambda bell: bell.check(), away=DOUBT, do=do)


async def limiter(settings: Settings) -> list[Finding]:
    """Where rates are counted; without their server each process counts by itself."""
    url = settings.limiter
    if url.startswith("memory:"):
        return [Finding(OK, "rates are counted within a process")]
    make, do = partial(limiters.connect, url), "start it; until then each process counts for itself"
    ask = partial(_redis, url, "limiter", "LOQUENT_LIMITER")
    return await _said(f"limits: {without_password(url)}", make, ask, away=DOUBT, do=do)


async def cache(settings: Settings) -> list[Finding]:
    """Where answers are kept; without its server they are made anew."""
    url = settings.cache
    if url == "off" or url.startswith("memory:"):
        where = "not kept" if url == "off" else "kept within a process"
        return [Finding(OK, f"answers that would come out the same again are {where}")]
    make, do = partial(caches.connect, url, size=settings.cache_size), "start it; until then answers are made anew"
    ask = partial(_redis, url, "cache", "LOQUENT_CACHE")
    return await _said(f"kept answers: {without_password(url)}", make, ask, away=DOUBT, do=do)


async def traces(settings: Settings) -> list[Finding]:
    """The collector, where spans are sent to one; they are dropped while it is away."""
    where = settings.traces_endpoint or "http://localhost:4318"
    shown = f"traces: {without_password(where)}"
    try:
        tracer = tracers.connect(settings.traces, settings.traces_endpoint)
    except LoquentError as error:
        return [_away(shown, error, BAD, ANSWER_SECONDS)]
    if tracer is None and settings.traces == "auto" and settings.traces_endpoint:
        why = f"{shown}: nothing is sent there, by the OTEL_ variables or for want of a library"
        return [Finding(DOUBT, why, install("otel"))]
    if tracer is None:
        return [Finding(OK, "no traces are sent")]

    async def ask(made: Tracer) -> None:
        try:
            await made.open()
            await made.check()
        finally:
            await made.close()

    return await _said(shown, lambda: tracer, ask, away=DOUBT, do="start it; until then spans are dropped")


async def _redis(url: str, what: str, setting: str, _: object) -> None:
    from loquent.links.redis import Link

    link = Link(url, what=what, setting=setting, seconds=ANSWER_SECONDS, connections=1)
    try:
        await link.check()
    finally:
        await link.close()


async def _said(
    shown: str,
    make: Callable[[], T],
    ask: Callable[[T], Awaitable[None]],
    *,
    well: str = "answers",
    away: str = BAD,
    do: str = "",
    seconds: float = ANSWER_SECONDS,
) -> list[Finding]:
    """How a part stands; ``away``: the mark of one that is not there, ``do``: what helps then."""
    try:
        made = make()
        await asyncio.sleep(0)  # nobody's time runs while what others need is imported
        async with asyncio.timeout(seconds):
            await ask(made)
    except (LoquentError, OSError) as error:
        return [_away(shown, error, away, seconds, do)]
    return [Finding(OK, f"{shown}: {well}")]


def _away(shown: str, error: LoquentError | OSError, mark: str, seconds: float, do: str = "") -> Finding:
    """What a fault means: a setting that cannot be used is broken whatever it is of."""
    if isinstance(error, LoquentError) and not isinstance(error, Unavailable):
        return Finding(BAD, f"{shown}: {error}")
    why = f"no answer in {seconds:g} seconds" if isinstance(error, TimeoutError) else str(error)
    return Finding(mark, f"{shown}: {why}", do)
