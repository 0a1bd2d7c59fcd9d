"""Watch: what monitors are told beyond what is counted on the way: the parts, their lines, the loop, the disk.

It is found out when somebody looks. What has to be asked of others is asked at most every few seconds, whoever looks,
and with a bound; what a part does not answer is left out, so that no old number passes for a new one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from loquent.domain.clock import SECOND, Moment, now
from loquent.domain.errors import LoquentError
from loquent.domain.generations import Generation
from loquent.ports.figures import figures_of
from loquent.ports.queue import Queue
from loquent.ports.store import Store
from loquent.services import metrics
from loquent.services.breaker import STATES
from loquent.services.health import SECONDS, Check, Health
from loquent.services.jobs import Worker
from loquent.services.kept import Kept
from loquent.services.models import Models
from loquent.services.room import Disk, Room
from loquent.services.runner import Runner

T = TypeVar("T")
FRESH = 3.0  # seconds for which what others said is told again
MOST = 1_000  # generations up to which the unfinished ones are counted
SOME = 200  # of those that are due, among which the oldest is looked for
EVERY = 0.25  # seconds between looks how late the loop is


@dataclass(frozen=True, slots=True)
class Seen:
    """What others said when they were last asked; None: no answer."""

    checks: list[Check] = field(default_factory=list)
    due_since: Moment | None = None  # that of the job that waits longest; 0: none waits
    unfinished: int | None = None
    disks: Mapping[str, Disk] | None = None  # by what lies there


class Watch:
    """Looks for whoever asks for the page of metrics. ``fresh``: seconds for which a look is good."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        models: Models,
        kept: Kept | None,
        runner: Runner,
        worker: Worker,
        health: Health,
        room: Room,
    ) -> None:
        self.fresh = FRESH
        self._store = store
        self._queue = queue
        self._models = models
        self._kept = kept
        self._runner = runner
        self._worker = worker
        self._health = health
        self._room = room
        self._seen, self._seen_at = Seen(), -FRESH
        self._looking = asyncio.Lock()
        self._feeling: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to feel how late the loop is, and be who is asked."""
        metrics.of_the_process()
        metrics.standing.families = self._families
        self._feeling = asyncio.create_task(_feel(), name="loop lag")

    async def close(self) -> None:
        """Look no more. What was seen last is told no longer."""
        if self._feeling is not None:
            self._feeling.cancel()
            await asyncio.gather(self._feeling, return_exceptions=True)
            self._feeling, self._seen, self._seen_at = None, Seen(), -FRESH

    async def page(self) -> bytes:
        """All metrics, as they are now."""
        async with self._looking:
            if time.monotonic() - self._seen_at >= self.fresh:
                self._seen = await self._look()
                self._seen_at = time.monotonic()
        return metrics.page()

    async def _look(self) -> Seen:
        checks, due_since, unfinished, disks = await asyncio.gather(
            self._health.parts(),
            _answered(self._due_since()),
            _answered(self._store.count(Generation, "due", {}, cap=MOST)),
            _answered(asyncio.to_thread(self._room.disks)),
        )
        return Seen(checks, due_since, unfinished, disks)

    async def _due_since(self) -> Moment:
        """Also of a run whose lease has run out: it waits for somebody to take it over.

        Whoever is due first need not be the one that waits longest: so the oldest of some is told.
        """
        page = await self._store.page(Generation, "due", {}, limit=SOME, until=now())
        waiting = (max(each.created_at, each.started_at or 0, each.due_at or 0) for each in page.items)
        return Moment(min(waiting, default=0))

    def _families(self) -> Iterator[Metric]:
        seen = self._seen
        ups = {(check.name,): check.healthy for check in seen.checks}
        yield _gauges("loquent_part_up", "Whether a part answers; limiter: whether all count together.", ups, "part")
        waits = None if seen.due_since is None else seen.due_since and max(0, now() - seen.due_since) / SECOND
        yield _gauge("loquent_oldest_pending_seconds", "Age of the oldest job that waits, of the whole store.", waits)
        about = f"Generations that wait or run, of the whole store, counted up to {MOST:,}."
        yield _gauge("loquent_unfinished_generations", about, seen.unfinished)
        sizes, free = {}, {}
        for what, disk in (seen.disks or {}).items():
            sizes[what,], free[what,] = disk.size, disk.free
        about = "Size of each disk that is written to, by the first of what lies there: data, database, files."
        yield _gauges("loquent_disk_size_bytes", about, sizes, "disk")
        yield _gauges("loquent_disk_free_bytes", "Room that is free there.", free, "disk")
        lives = self._runner.lives.values()
        streams = sum(live.streamed and not live.is_job for live in lives)
        yield _gauge("loquent_open_streams", "Answers that are streamed to a caller now.", streams)
        yield _gauge(
            "loquent_job_slots", "Jobs that this process works on at a time; 0: it takes none.", self._worker.slots
        )
        yield _gauge("loquent_job_slots_in_use", "Jobs that it works on now.", self._worker.busy)
        yield from self._of_engines()
        yield from self._of_parts()

    def _of_engines(self) -> Iterator[Metric]:
        ways = self._models.ways()
        gates = {(way.label,): way.gate for way in ways if way.gate is not None}
        states = {(way.label,): STATES.index(way.breaker.state) for way in ways}
        waiting = {(way.label,): 0 if way.gate is None else way.gate.waiting for way in ways}
        inside = {label: gate.inside for label, gate in gates.items()}
        slots = {label: gate.slots for label, gate in gates.items()}
        lines = {(way.label, state): n for way in ways for state, n in figures_of(way.engine).items()}
        about = "Whether engines are asked: 0 closed, 1 half open, 2 open."
        yield _gauges("loquent_breaker_state", about, states, "model")
        yield _gauges("loquent_waiting_calls", "Calls that wait for a slot of an engine.", waiting, "model")
        yield _gauges("loquent_engine_slots", "Calls that an engine takes at a time.", slots, "model")
        yield _gauges("loquent_engine_slots_in_use", "Calls that are in a slot now.", inside, "model")
        about = "Connections to an engine's server: busy, idle."
        yield _gauges("loquent_engine_connections", about, lines, "model", "state")

    def _of_parts(self) -> Iterator[Metric]:
        store, queue, cache = figures_of(self._store), figures_of(self._queue), figures_of(self._kept)
        lines = _named(store, "_waiting")
        yield _gauges("loquent_store_waiting_calls", "Calls that wait for the store: reads, writes.", lines, "call")
        yield _gauge("loquent_store_connections", "Connections to the database.", store.get("connections"))
        yield _gauge("loquent_rings_waiting", "Messages that wait for the broker.", queue.get("rings_waiting"))
        lost = CounterMetricFamily("loquent_rings_lost", "Messages given up: workers find the jobs by looking.")
        if "rings_lost" in queue:
            lost.add_metric((), queue["rings_lost"])
        yield lost
        hits = CounterMetricFamily("loquent_cache_hits", "Values found in the cache, by its level.", labels=("level",))
        for level, found in _named(cache, "_hits").items():
            hits.add_metric(level, found)
        yield hits
        yield _gauge("loquent_cache_memory_bytes", "What the cache takes of this memory.", cache.get("memory_bytes"))


async def _feel() -> None:
    loop, lag = asyncio.get_running_loop(), metrics.loop_lag.labels()
    while True:
        due = loop.time() + EVERY
        await asyncio.sleep(EVERY)
        lag.observe(max(0.0, loop.time() - due))


async def _answered(asked: Awaitable[T]) -> T | None:
    """None where there is no answer in time; whoever asked is told of the part that is away by its check."""
    try:
        async with asyncio.timeout(SECONDS):
            return await asked
    except (LoquentError, TimeoutError, OSError):
        return None


def _named(figures: Mapping[str, float], ending: str) -> dict[tuple[str, ...], float]:
    """Those whose names end so, by what stands before."""
    return {(name.removesuffix(ending),): value for name, value in figures.items() if name.endswith(ending)}


def _gauge(name: str, about: str, value: float | None) -> Metric:
    """A family of one, described also where there is nothing to tell."""
    return _gauges(name, about, {} if value is None else {(): value})


def _gauges(name: str, about: str, values: Mapping[Any, float], *labels: str) -> Metric:
    """A family by labels: values by theirs."""
    family = GaugeMetricFamily(name, about, labels=labels)
    for at, value in values.items():
        family.add_metric(at, float(value))
    return family
