"""A lane: one thread that does, in groups, what many callers wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from loquent.domain.errors import Unavailable
from loquent.domain.fixed import loose

ENOUGH = 64  # jobs for which the loop's next turn is not waited for
MOST = 512  # jobs after which a group is begun: a bound on how long the first of them waits for the last


@loose
class Job:
    """What one caller waits for: calls to make, and what came of them."""

    calls: Sequence[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Lane:
    """Hands jobs to a thread, which takes all that wait as one group; each loop is woken once for a group.

    What is asked for within one turn of a loop is handed over together at its end, and nothing more until the loop has
    heard of it: a group costs nearly what one job does, so under load it is better to wait for the loop than for the
    disk. ``work`` does a group and sets each job's result or error; ``stop`` is run in the thread at the end.
    """

    def __init__(self, name: str, work: Callable[[list[Job]], None], stop: Callable[[], None]) -> None:
        self._name, self._work, self._stop = name, work, stop
        self._asked: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        self._awaiting: set[asyncio.AbstractEventLoop] = set()  # loops that have not heard of their last group
        self._waiting: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._lock = Lock()  # nothing is handed over behind the end of the thread

    def open(self) -> None:
        """Start the thread."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    async def close(self) -> None:
        """Do what waits, then end the thread."""
        for loop in list(self._asked):
            self._hand_over(loop)
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._waiting.put(None)
        if thread is not None:
            await asyncio.to_thread(thread.join)

    @property
    def waiting(self) -> int:
        """How many wait for the group after the one that is being done."""
        return sum(map(len, self._asked.values()))

    async def do(self, calls: Sequence[Any]) -> Any:
        """Have the calls done, and wait for it. Cancelled before its group begins: not done at all."""
        loop = asyncio.get_running_loop()
        job = Job(calls, loop.create_future())
        asked = self._asked.get(loop)
        if asked is None:
            self._asked[loop] = [job]
            if loop not in self._awaiting:
                loop.call_soon(self._gather, loop, 1)
        else:
            asked.append(job)
        return await job.future

    def _gather(self, loop: asyncio.AbstractEventLoop, before: int) -> None:
        """Hand over what is asked for, unless this turn of the loop brought more: then so may the next."""
        waiting = len(self._asked.get(loop, ()))
        if before < waiting < ENOUGH:
            loop.call_soon(self._gather, loop, waiting)
        else:
            self._hand_over(loop)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        jobs = self._asked.pop(loop, None)
        if jobs is None:
            return
        with self._lock:
            if self._thread is not None:
                self._awaiting.add(loop)
                self._waiting.put(jobs)
                return
        for job in jobs:
            job.error = Unavailable("the store is closed")
        self._tell(jobs)

    def _run(self) -> None:
        is_open = True
        while is_open:
            jobs, is_open = self._next()
            group = [job for job in jobs if not job.future.cancelled()]
            try:
                if group:
                    self._work(group)
            except BaseException as error:  # a fault of ours: every caller hears of it, and the lane goes on
                for job in group:
                    job.error = error
            self._tell(jobs)
        self._stop()

    def _next(self) -> tuple[list[Job], bool]:
        """What waits now, at least one; and whether the lane stays open."""
        jobs = self._waiting.get()
        group: list[Job] = []
        try:
            while jobs is not None:
                group += jobs
                if len(group) >= MOST:
                    return group, True
                jobs = self._waiting.get_nowait()
        except Empty:
            return group, True
        return group, False

    def _tell(self, group: list[Job]) -> None:
        """Wake each loop once, with all that is for it."""
        loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in group:
            loops.setdefault(job.future.get_loop(), []).append(job)
        for loop, jobs in loops.items():
            try:
                loop.call_soon_threadsafe(self._deliver, loop, jobs)
            except RuntimeError:  # that loop is closed: nobody waits there any more
                self._awaiting.discard(loop)

    def _deliver(self, loop: asyncio.AbstractEventLoop, jobs: list[Job]) -> None:
        for job in jobs:
            if job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
        self._awaiting.discard(loop)
        if waiting := self._asked.get(loop):
            loop.call_soon(self._gather, loop, len(waiting))
