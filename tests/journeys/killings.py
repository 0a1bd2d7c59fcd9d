"""Jobs while servers and workers behind nginx are killed, one of each kind at a time: none lost, one result each.

A kill comes at a moment that nobody chose, or at a failpoint. What a killed worker had in its hands is watched until
another has it.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, cycle

import httpx2
import psycopg

from journeys.cluster import Cluster, Part
from journeys.counting import SEEN, Count, Job, all_over, finish, posted
from journeys.processes import end_of

QUICK = {
    "LOQUENT_LEASE_SECONDS": "1.5",
    "LOQUENT_SWEEP_SECONDS": "0.3",
    "LOQUENT_CHECKPOINT_SECONDS": "0.2",
    "LOQUENT_MAX_ATTEMPTS": "100",  # a kill takes all down that a worker has, and none of them is to blame
    "LOQUENT_JOB_SLOTS": "64",  # so that what is taken up again waits for nothing else
    "LOQUENT_SERVE_JOBS": "off",
}
SOON = 3.0  # seconds from the kill of a worker to its last job's run elsewhere, with these settings
WORDS = (1, 5, 20, 60, 120, 300)
SERVE, WORK = ("after-commit:2", "after-ring:2"), ("before-finish:4", "after-claim:3", "after-finish:3")
LIFE = 0.8  # seconds that a part is left alive at most, once it is at work
ARMED = 6.0  # the same where it is to die at a failpoint: what comes first is good enough
PATIENCE = 120.0  # seconds for all that is open to end


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    jobs: int = 60  # and on, at a fifth of the rate, for as long as there are kills
    rate: float = 6.0  # jobs a second
    kills: int = 6  # of servers and workers together
    words: tuple[int, ...] = WORDS
    seed: int = 1


@dataclass(kw_only=True)
class Report(Count):
    """What was seen."""

    plan: Plan
    kills: int = 0
    at_failpoints: int = 0  # kills that a process did to itself
    recoveries: list[float] = field(default_factory=list)  # seconds from a kill to the job's next run, for each job
    slowest_post: float = 0.0  # until it was accepted, all tries together
    seconds: float = 0.0

    def __str__(self) -> str:
        slowest = max(self.recoveries, default=0.0)
        return (
            f"{self.jobs} jobs at {self.plan.rate:g} a second, {self.kills} kills ({self.at_failpoints} at failpoints):"
            f" {self.counted[0]} results, {self.attempts} runs, {len(self.recoveries)} runs lost and recovered within"
            f" {slowest:.2f} s, a job accepted within {self.slowest_post:.2f} s; {self.seconds:.1f} s,"
            f" seed {self.plan.seed}"
        )


class Rig:
    """Clients that insist, one who kills servers, one who kills workers, and one who only watches."""

    def __init__(self, plan: Plan, cluster: Cluster) -> None:
        self.report = Report(jobs=plan.jobs, plan=plan)
        self._plan, self._cluster = plan, cluster
        self._chance = random.Random(plan.seed)
        self._lost: dict[str, tuple[int, float]] = {}  # job -> its fence when its process was killed, and when

    async def run(self) -> Report:
        """All of it; what was seen, not yet checked."""
        began = time.monotonic()
        jobs: list[Job] = []
        kills = self._plan.kills // 2
        async with (
            self._cluster.client() as client,
            asyncio.TaskGroup() as group,
        ):
            watching = group.create_task(self._watch())
            killing = [
                group.create_task(self._kill(self._cluster.apis, SERVE, kills)),
                group.create_task(self._kill(self._cluster.workers, WORK, self._plan.kills - kills)),
            ]
            posting = []
            while len(jobs) < self._plan.jobs or not all(each.done() for each in killing):
                jobs.append(Job(len(jobs), self._chance.choice(self._plan.words)))
                posting.append(group.create_task(self._post(client, jobs[-1])))
                await asyncio.sleep((1 if len(jobs) < self._plan.jobs else 5) / self._plan.rate)
            await asyncio.gather(*posting)
            await all_over(self._cluster.rows, PATIENCE)
            watching.cancel()
            self.report.jobs = len(jobs)
            await finish(self.report, self._cluster.rows, client)
        self.report.seconds = time.monotonic() - began
        return self.report

    async def _post(self, client: httpx2.AsyncClient, job: Job) -> None:
        began = time.monotonic()
        self.report.accepted[await posted(client, job)] = job
        self.report.slowest_post = max(self.report.slowest_post, time.monotonic() - began)

    async def _kill(self, parts: Sequence[Part], failpoints: Sequence[str], kills: int) -> None:
        """One after the other, so that another of its kind is there; twice each: then it dies at a failpoint."""
        points, is_armed = cycle(failpoints), False
        for number in range(kills):
            part = parts[number // 2 % len(parts)]
            while not part.address and not is_armed and not await self._cluster.held(part):
                await asyncio.sleep(0.05)  # it is to lose something
            with suppress(TimeoutError):
                assert part.process is not None
                await end_of(part.process, ARMED if is_armed else self._chance.uniform(0, LIFE))
                self.report.at_failpoints += 1
            await part.end(signal.SIGKILL)
            self.report.kills += 1
            if not part.address:
                held = await self._cluster.held(part)
                self._lost |= {id: (fence, time.monotonic()) for id, fence in held.items()}
            is_armed = number % 2 == 0
            await part.start(LOQUENT_FAILPOINTS=next(points) if is_armed else "")

    async def _watch(self) -> None:
        """See results as soon as they are there, and lost jobs when others have them."""
        async with await psycopg.AsyncConnection.connect(self._cluster.database, autocommit=True) as opened:
            for turn in count():
                if turn % 10 == 0:
                    self.report.see(await (await opened.execute(SEEN)).fetchall())
                found = await opened.execute("SELECT id, fence FROM generations WHERE id = ANY(%s)", [list(self._lost)])
                for id, fence in await found.fetchall():
                    if fence > self._lost[id][0]:
                        self.report.recoveries.append(time.monotonic() - self._lost.pop(id)[1])
                await asyncio.sleep(0.1)


async def recovery(cluster: Cluster, seconds: float) -> list[float]:
    """Seconds from the kill of a busy worker to the next run of each of its jobs. Raises TimeoutError."""
    async with cluster.client() as client:
        for number in range(8):  # what one worker has room for; they last, so that none is over before
            await posted(client, Job(number, words=int(200 * seconds)))
    worker = await cluster.busy()
    await asyncio.sleep(1)
    await worker.end(signal.SIGKILL)
    killed, took = time.monotonic(), []
    lost = await cluster.held(worker)
    async with asyncio.timeout(seconds):
        while lost:
            for id, fence in await cluster.rows("SELECT id, fence FROM generations WHERE id = ANY(%s)", list(lost)):
                if fence > lost[id]:
                    took.append(time.monotonic() - killed)
                    del lost[id]
            await asyncio.sleep(0.1)
    return took
