"""The one runner: takes a generation from its first engine call to its end state, whoever asked and however.

A synchronous call collects it, a stream passes it on, a job lets it run. What is short is written once, when it is
over; what lasts longer than a checkpoint is on the record while it runs, with its text so far.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from loquent.domain import failpoints
from loquent.domain.clock import SECOND, Moment, later, now
from loquent.domain.errors import (
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    NotYet,
    Stale,
    Unavailable,
)
from loquent.domain.evolve import evolve
from loquent.domain.generations import (
    BACKGROUND,
    CANCELLED,
    COMPLETED,
    FAILED,
    Generation,
    Outcome,
    finished,
    released,
    retried,
)
from loquent.domain.log import Log
from loquent.domain.usage import usage_day
from loquent.ports.engine import Chunk
from loquent.ports.store import Bump, Replace, Store
from loquent.services import live as lives
from loquent.services import metrics, said
from loquent.services.checkpoints import Checkpoints
from loquent.services.live import Live
from loquent.services.metrics import meter
from loquent.services.pace import Pace
from loquent.services.tokens import revoked
from loquent.services.writes import Writes

log = Log("loquent.runner")

Recipe = Callable[[Live], AsyncIterator[Chunk]]
"""What to ask of the engine for one kind of generation; runs inside the runner, one piece after the other."""

GRACE = 1.0  # seconds in which a caller must take what was sent, when all is stopped


class Runner:
    """Runs generations in this process and keeps them on the record. Takes the whole store: it works for everybody."""

    def __init__(self, store: Store, recipes: Mapping[str, Recipe], pace: Pace) -> None:
        self._store = store
        self.writes = Writes(store, again=pace.again)
        self._recipes = recipes
        self.pace = pace
        self.lives: dict[str, Live] = {}
        self.is_stopping = False
        self._concluding: set[asyncio.Task[Any]] = set()
        self.checkpoints = Checkpoints(store, self.writes, self.lives, pace)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Begin to keep what runs on the record."""
        self._loop = asyncio.get_running_loop()
        metrics.running.set_function(lambda: len(self.lives))
        await self.checkpoints.open()

    def release(self) -> None:
        """Have the jobs that run handed back, for others to go on with at once."""
        for live in self.lives.values():
            if live.is_job:
                live.stop(lives.RELEASED)

    def revoke(self, tenant: str, owner: str, good_from: Moment) -> int:
        """End what callers by that owner's older tokens wait for, have followers look; how many ended. Jobs go on."""
        theirs = [
            each
            for each in self.lives.values()
            if each.generation.is_of(tenant, owner) and (each.is_job or each.since < good_from)
        ]
        for live in theirs:
            if live.is_job:
                live.wake()
                continue
            live.stop(lives.REVOKED)
            asyncio.get_running_loop().call_later(GRACE, live.cut)
        return sum(not live.is_job for live in theirs)

    async def drain(self, seconds: float) -> None:
        """Hand back the jobs, wait so long for the rest to end, then end it while its callers can still be told."""
        self.is_stopping = self.writes.hurries = True
        deadline = later(now(), seconds)
        while (running := list(self.lives.values())) and now() < deadline:
            self.release()  # each time: one that was taken just now may have begun since
            await running[0].is_quiet(min(0.5, seconds))
        await self._stop_all()

    async def close(self) -> None:
        """Stop what still runs: jobs are handed back, the rest ends as interrupted. Returns when all is written."""
        await self._stop_all()
        await asyncio.gather(*self._concluding, return_exceptions=True)
        await self.checkpoints.close()

    async def _stop_all(self) -> None:
        self.is_stopping = self.writes.hurries = True
        deadline = later(now(), GRACE)
        while running := list(self.lives.values()):
            for live in running:
                live.stop(lives.RELEASED if live.is_job else lives.INTERRUPTED)
                if now() >= deadline:
                    live.cut()
            await running[0].is_quiet(0.1)

    async def run(self, live: Live) -> AsyncIterator[Chunk]:
        """Run it, and give the pieces as they come; the record is written before the iterator ends.

        Closing the iterator, or cancelling the task, ends the engine's work and keeps what there is. A fault is
        written, then raised; a stop that was asked for is written, and the iterator just ends.
        """
        former = self.lives.get(live.generation.id)
        if former is not None and not failpoints.is_armed(failpoints.UNFENCED):
            former.stop(lives.FENCED)  # this process stood still past the lease, and has taken the job again
        said.asked(live.generation, live.content)
        chunks = self._recipes[live.generation.kind](live)
        self.lives[live.generation.id] = live
        live.runs_in(asyncio.current_task(self._loop))
        outcome: Outcome | None = None
        try:
            while live.stopped is None:
                live.waits = True
                try:
                    chunk = await anext(chunks)
                finally:
                    live.waits = False
                live.take(chunk)
                yield chunk
        except StopAsyncIteration:
            outcome = live.outcome(COMPLETED)
        except LoquentError as error:
            outcome = live.outcome(FAILED, error=error)
            raise
        except TimeoutError as error:
            late = EngineTimeout("the answer took too long")
            outcome = live.outcome(FAILED, error=late)
            raise late from error
        except asyncio.CancelledError:
            if not live.mends():
                raise
        except Exception as error:
            log.exception("unexpected fault in a generation", generation=live.generation.id)
            unexpected = EngineFailed("an unexpected fault; the log says more, by the request's id")
            outcome = live.outcome(FAILED, error=unexpected)
            raise unexpected from error
        finally:
            if outcome is None:
                await self._shielded(self._end(live, chunks, outcome))
            else:
                await self._finally(live, chunks, outcome)
        if outcome is None and live.stopped == lives.INTERRUPTED:
            raise interruption()
        if outcome is None and live.stopped == lives.REVOKED:
            raise revoked()

    async def collect(self, live: Live) -> Live:
        """Run it to its end."""
        async for _ in self.run(live):
            pass
        return live

    # How it ends

    async def _end(self, live: Live, chunks: AsyncIterator[Chunk], outcome: Outcome | None) -> None:
        """Free the engine, write the end, let followers know; to its end also where the caller has gone."""
        live.is_ending = True
        try:
            if outcome is None and (close := getattr(chunks, "aclose", None)):
                await close()
            if live.saving is not None:
                await asyncio.wait([live.saving])  # waited for, but never cancelled with the one who waits
            await self._conclude(live, outcome)
        finally:
            if self.lives.get(live.generation.id) is live:
                del self.lives[live.generation.id]
            live.wake()

    async def _conclude(self, live: Live, outcome: Outcome | None) -> None:
        if live.stopped == lives.FENCED:
            metrics.fenced.inc()
            _count_run(live, lives.FENCED)
            log.warning("result dropped", generation=live.generation.id, why="another has it by now, or it is over")
            return
        if live.stopped == lives.RELEASED and outcome is None:
            is_ours = await self.writes.put(live, released, evolve(live.content, output=live.text))
            _count_run(live, lives.RELEASED if is_ours else lives.FENCED)
            return
        if outcome is None:
            outcome = _cut_short(live)
        if live.is_job and self._may_pass(live, outcome):
            metrics.retried.inc()
            is_ours = await self.writes.put(live, lambda record: _retried(record, outcome), live.content)
            _count_run(live, "retried" if is_ours else lives.FENCED)
            return
        if not await self._put_result(live, outcome):
            _count_run(live, lives.FENCED)
            return
        _count_run(live, outcome.status)
        said.answered(live.generation, outcome)
        first = None if live.first_at is None else (live.first_at - live.generation.created_at) / SECOND
        metrics.ends(live.offer.model.name).count(outcome, first)

    def _may_pass(self, live: Live, outcome: Outcome) -> bool:
        if isinstance(outcome.error, NotYet):
            return True  # no fault of the job, and no run of it: see retried
        passing = isinstance(outcome.error, (Unavailable, EngineTimeout))
        return passing and live.generation.attempts < self.pace.max_attempts

    async def _put_result(self, live: Live, outcome: Outcome) -> bool:
        """Whether it was written: False where another worker holds the job."""
        failpoints.passing("before-finish")
        content = evolve(live.content, output=outcome.output, sources=outcome.sources, more=outcome.more)
        counted = _counted(live.generation, outcome)
        try:
            is_ours = await self.writes.put(live, lambda record: finished(record, outcome), content, counted)
        except Invalid as error:  # the store cannot keep what the engine said: the end is kept without it
            refused = Outcome(FAILED, "", error=EngineFailed(f"the engine's answer cannot be kept: {error.message}"))
            counted = _counted(live.generation, refused)
            await self.writes.put(live, lambda record: finished(record, refused), live.content, counted)
            raise EngineFailed(f"the engine's answer cannot be kept: {error.message}") from error
        failpoints.passing("after-finish")
        return is_ours

    async def settle(self, generation: Generation, outcome: Outcome) -> None:
        """Write the end of one that is not run at all, as it was read; nothing where somebody was quicker."""
        ended = finished(generation, outcome)
        try:
            await self._store.write(Replace(generation, ended), _counted(generation, outcome))
        except Stale:
            metrics.fenced.inc()
            return
        meter(metrics.generations, generation.model, outcome.status).inc()
        if generation.mode == BACKGROUND:
            metrics.jobs.labels(outcome.status).inc()

    async def _finally(self, live: Live, chunks: AsyncIterator[Chunk], outcome: Outcome) -> None:
        """The end, as nearly always, in the caller's own task; cancelled there it is done again, with one result."""
        try:
            await self._end(live, chunks, outcome)
        except asyncio.CancelledError:
            await self._shielded(self._end(live, chunks, outcome))
            raise

    async def _shielded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to its end, though the one who waits may be cancelled."""
        task = asyncio.create_task(work)
        self._concluding.add(task)
        task.add_done_callback(self._concluding.discard)
        await asyncio.shield(task)


def _count_run(live: Live, outcome: str) -> None:
    if live.is_job:
        metrics.jobs.labels(outcome).inc()


def interruption() -> Unavailable:
    """The process that made an answer stopped before it was whole."""
    return Unavailable("the server stopped before the answer was whole", retry_after=5)


def _cut_short(live: Live) -> Outcome:
    """It was stopped, or its caller has gone: what there is is kept."""
    if live.stopped == lives.INTERRUPTED:
        return live.outcome(FAILED, error=interruption(), finish_reason=lives.INTERRUPTED)
    if live.stopped == lives.REVOKED:
        return live.outcome(FAILED, error=revoked(), finish_reason=lives.INTERRUPTED)
    return live.outcome(CANCELLED, finish_reason=lives.CANCELLED)


def _counted(generation: Generation, outcome: Outcome) -> Bump:
    """What the end of it adds to the owner's day."""
    used = {
        "generations": 1,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "cost": outcome.cost,
    }
    return Bump(usage_day(generation.tenant, generation.owner, generation.model, now()), used)


def _retried(record: Generation, outcome: Outcome) -> Generation:
    """Back to pending, for as long as the engine asked, else for 2, 4, 8 … seconds with jitter."""
    error = outcome.error or Unavailable("it may pass")
    seconds = getattr(error, "retry_after", None) or 2.0**record.attempts * random.uniform(0.5, 1)  # noqa: S311
    return retried(record, seconds=seconds, error=error, counts=not isinstance(error, NotYet))
