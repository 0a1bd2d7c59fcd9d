"""Jobs: generations that run away from the request. The record is the job; the queue only says "look"."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from loquent.domain import failpoints
from loquent.domain.clock import SECOND, later, now
from loquent.domain.errors import EngineFailed, LoquentError, Stale, Unavailable
from loquent.domain.generations import (
    BACKGROUND,
    CANCELLED,
    FAILED,
    FOREGROUND,
    PROCESSING,
    Content,
    Generation,
    Outcome,
    claimed,
    hurried,
    restarted,
)
from loquent.domain.idempotency import Repeat
from loquent.domain.log import Log
from loquent.domain.outages import Outage
from loquent.domain.requests import from_stored
from loquent.domain.usage import estimate_tokens
from loquent.ports.outages import outage_of
from loquent.ports.queue import Queue
from loquent.ports.store import Position, Remove, Replace, Store
from loquent.services import metrics
from loquent.services.live import INTERRUPTED, RELEASED, Live
from loquent.services.models import Models
from loquent.services.room import Room
from loquent.services.runner import Runner, interruption
from loquent.services.suspects import Suspects

log = Log("loquent.jobs")
SWEEP = 200  # records that one look for what is out of date handles
AGAIN = 0.5  # seconds until a store that is away is asked again for the texts of what was taken


class Worker:
    """Takes what is due and runs it, so many at a time. Any number of workers share one store, harmlessly."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        models: Models,
        queue: Queue,
        *,
        slots: int,
        sweep_seconds: float,
        look: Callable[[], Awaitable[None]] | None = None,
        room: Room | None = None,
        outage: Outage | None = None,
    ) -> None:
        self._store = store
        self._runner = runner
        self._models = models
        self._queue = queue
        self._slots = slots
        self._sweep_seconds = sweep_seconds
        self._look_anew = look  # at which models there are
        self._room = room
        self._outage = outage or outage_of(store)
        self._name = f"{socket.gethostname()[:40]}:{os.getpid()}"
        self._suspects = Suspects(store, runner.pace, self._name)
        self._look = asyncio.Event()
        self._has_room = asyncio.Event()  # nothing is left that is due, and more could be done here
        self._jobs: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._taking: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def slots(self) -> int:
        """How many jobs at a time are worked on here; 0 where none are taken."""
        return self._slots if self._loops else 0

    @property
    def busy(self) -> int:
        """How many slots are in use."""
        return len(self._jobs)

    async def open(self, *, alone: bool) -> None:
        """Begin to take work. ``alone``: no other process uses this store, so what is processing is orphaned."""
        if alone:
            await self._recover()
        self._is_closing = False
        self._look.set()
        self._loops = [
            asyncio.create_task(self._listen(), name="listen"),
            asyncio.create_task(self._work(), name="work"),
            asyncio.create_task(self._sweep(), name="sweep"),
        ]

    async def close(self) -> None:
        """Take no more. What runs, and what was being taken, is the runner's to stop."""
        self._is_closing = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        if self._taking is not None:  # a claim that is under way may have happened: it is seen through
            await asyncio.gather(self._taking, return_exceptions=True)
            await asyncio.sleep(0)  # so that what was taken has begun, and can be handed back
        await self._suspects.close()

    async def _recover(self) -> None:
        """End the leases of a process that is no more, so that its work is taken up at once."""
        after: Position | None = None
        while True:
            page = await self._store.page(Generation, "due", {}, limit=SWEEP, after=after)
            for record in page.items:
                if record.status == PROCESSING and (record.due_at or 0) > now():  # one that is due is taken up as it is
                    await self._store.write(Replace(record, restarted(record)))
            if not page.more:
                return
            after = Position(page.items[-1].due_at, page.items[-1].id)

    async def _listen(self) -> None:
        while True:
            await self._has_room.wait()  # while there is none, rings are for others
            await self._queue.wait(self._sweep_seconds)
            self._has_room.clear()
            self._look.set()

    async def _work(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            self._taking = asyncio.create_task(self._take())
            try:
                await asyncio.shield(self._taking)
                self._outage.back("jobs")
            except LoquentError as error:
                self._tell("jobs", error, "cannot take work")
                await asyncio.sleep(1)
                self._look.set()
            except Exception:
                log.exception("cannot take work")
                await asyncio.sleep(1)
                self._look.set()

    async def _take(self) -> None:
        """Fill the free slots with what is due."""
        self._has_room.clear()
        while (free := self._suspects.room(self._slots, len(self._jobs))) > 0 and not self._is_closing:
            if self._room is not None and self._room.is_full:
                return  # an answer takes space: rings are for others, and the next sweep looks again
            taken = await self._suspects.claim()
            if not taken:
                put, add = claimed(later(now(), self._runner.pace.lease), self._name)
                taken = await self._store.take(Generation, "due", {}, until=now(), n=free, put=put, add=add)
            if not taken:
                taken = await self._suspects.claim()  # nobody else waits
            if not taken:
                self._has_room.set()
                return
            failpoints.passing("after-claim")
            taken = await self._suspects.sift(taken, len(self._jobs))
            _count(taken)
            contents = await self._contents(taken)
            for generation in taken:
                task = asyncio.create_task(self._do(generation, contents.get(generation.id)))
                self._jobs.add(task)
                task.add_done_callback(self._done)

    async def _contents(self, taken: list[Generation]) -> dict[str, Content]:
        """Their texts. A store that is away is asked again while their leases last: their run has been counted."""
        until = min((each.due_at or 0 for each in taken), default=0)
        while True:
            try:
                return {each.id: each for each in await self._store.get(Content, *(each.id for each in taken))}
            except Unavailable:
                if self._is_closing or now() >= until:
                    raise
                await asyncio.sleep(AGAIN)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        self._look.set()
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("a job's end could not be written; its lease will run out", why=str(fault))

    async def _do(self, generation: Generation, content: Content | None) -> None:
        if content is None:
            content = Content(generation.id, 0, generation.tenant, generation.owner, {}, "")
            await self._fail(generation, content, EngineFailed("its input has been removed"))
        elif generation.cancel_requested:
            await self._settle(generation, content, CANCELLED, finish_reason="cancelled")
        elif generation.mode == FOREGROUND:
            await self._settle(generation, content, FAILED, error=interruption(), finish_reason=INTERRUPTED)
        elif generation.attempts > self._runner.pace.max_attempts:
            tries = self._runner.pace.max_attempts
            last = f": {generation.error_message}" if generation.error_message else ""
            await self._fail(generation, content, EngineFailed(f"{tries} runs ended without a result{last}"))
        else:
            await self._run(generation, content)

    async def _run(self, generation: Generation, content: Content) -> None:
        if generation.model not in self._models.offers and self._look_anew is not None:
            await self._look_anew()  # it may have been added just now, by another process
        try:
            offer = self._models.offer(generation.model)
        except LoquentError as error:
            await self._fail(generation, content, error)
            return
        parameters = from_stored(generation.parameters)
        live = Live(offer, generation, content, parameters, streamed=True, saved=True)
        try:
            await self._runner.collect(live)
        except LoquentError as error:
            log.info("job ended with a fault", generation=generation.id, code=error.code, why=error.message)
        if live.stopped == RELEASED:
            await self._queue.ring(generation.id)  # somebody else may go on at once

    async def _fail(self, generation: Generation, content: Content, error: LoquentError) -> None:
        await self._settle(generation, content, FAILED, error=error)

    async def _settle(
        self,
        generation: Generation,
        content: Content,
        status: str,
        *,
        error: LoquentError | None = None,
        finish_reason: str | None = None,
    ) -> None:
        output = content.output
        tokens = estimate_tokens(output)
        outcome = Outcome(status, output, finish_reason, completion_tokens=tokens, usage_estimated=True, error=error)
        await self._runner.settle(generation, outcome)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                await self._suspects.keep()
                self._look.set()
                await self._forget_repeats()
                await self._hurry()
                self._outage.back("sweep")
            except LoquentError as error:
                self._tell("sweep", error, "sweep failed")
            except Exception:
                log.exception("sweep failed")

    def _tell(self, what: str, error: LoquentError, event: str) -> None:
        if isinstance(error, Unavailable):
            self._outage.gone(what, error.message)
        else:
            log.warning(event, why=error.message)

    async def _forget_repeats(self) -> None:
        page = await self._store.page(Repeat, "expiring", {}, limit=SWEEP, until=now())
        for record in page.items:
            try:
                await self._store.write(Remove(record))
            except Stale:
                continue  # another process was quicker

    async def _hurry(self) -> None:
        """Have what has run before go on before what has not: the clock has put it behind all turns: see Backlog."""
        first = await self._store.page(Generation, "due", {}, limit=1, until=later(now(), -self._sweep_seconds))
        front = first.items[0].due_at if first.items else None
        if front is None:
            return  # nothing waits for long
        page = await self._store.page(Generation, "due", {}, limit=SWEEP, back=True, until=now())
        for record in page.items:
            if record.fence and (record.due_at or 0) > later(front, self._sweep_seconds):
                with suppress(Stale):  # somebody was quicker
                    await self._store.write(Replace(record, hurried(record, before=front)))


def _count(taken: list[Generation]) -> None:
    """What was taken up; a second attempt without a word of why the first one ended is one whose lease was lost."""
    metrics.claimed.inc(len(taken))
    for each in taken:
        if each.fence == 1 and each.mode == BACKGROUND:
            metrics.job_wait_seconds.labels().observe(max(0, (each.started_at or 0) - each.created_at) / SECOND)
        elif each.attempts > 1 and each.error_code is None:
            metrics.lost_leases.inc()
