"""A Redis that is killed, frozen, and emptied and restarted again and again, under jobs: nobody waits, none is lost.

It is the broker, the limiter and the cache's second level of servers and workers behind nginx. When it is back, what
Celery's workers say of themselves over the broker shows that they take messages again.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

import httpx2

from journeys.cluster import Cluster
from journeys.counting import Count, Job, all_over, finish
from loquent.queues.celery_app import make_app
from loquent.queues.celery_publisher import TASK

QUICK = {
    "LOQUENT_SERVE_JOBS": "off",
    "LOQUENT_SWEEP_SECONDS": "3",
    "LOQUENT_LIMIT_GENERATIONS": "1000000/minute",  # so that each POST asks Redis
}
POST = 1.5  # seconds in which 99 of 100 must be answered
BACK = 90.0  # seconds for workers to be back: Celery tries after 2, 4, 6 … at most 30 seconds


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rate: float = 10.0  # jobs a second
    away: float = 2.0  # seconds for which it is gone
    frozen: float = 4.0
    restarts: int = 5
    within: float = 3.0  # seconds, all of these


@dataclass(kw_only=True)
class Report(Count):
    """What was seen."""

    plan: Plan
    posts: list[float] = field(default_factory=list)  # seconds until each was answered
    refused: list[int] = field(default_factory=list)  # other answers than 202
    heard: dict[str, int] = field(default_factory=dict)  # worker -> messages that it took after the last outage
    back: float = 0.0  # seconds from there until each had taken some

    @property
    def p99(self) -> float:
        """Of the POSTs."""
        return sorted(self.posts)[math.ceil(len(self.posts) * 0.99) - 1]

    def check(self) -> None:
        """See Count."""
        super().check()
        assert not self.refused, f"not 202: {self.refused}"
        assert self.p99 <= POST, f"99 of 100 were answered within {self.p99:.2f} s"
        assert len(self.heard) == 2, self.heard
        assert all(self.heard.values()), f"some take no messages any more: {self.heard}"

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"Redis gone for {plan.away:g} s, frozen for {plan.frozen:g} s, restarted empty {plan.restarts} times in"
            f" {plan.within:g} s: {self.jobs} POSTs, p99 {self.p99 * 1000:.0f} ms, slowest"
            f" {max(self.posts) * 1000:.0f} ms, {len(self.refused)} refused; {self.counted[0]} results;"
            f" both workers took messages again {self.back:.1f} s after the end: {sorted(self.heard.values())}"
        )


class Rig:
    """One who posts at a steady rate, whatever happens, and one who torments the broker."""

    def __init__(self, plan: Plan, cluster: Cluster) -> None:
        assert cluster.redis is not None
        self.report = Report(jobs=0, plan=plan)
        self._plan, self._cluster, self._redis = plan, cluster, cluster.redis
        self._app = make_app(cluster.redis.url, lambda _: None)

    async def run(self) -> Report:
        """All of it; what was seen, not yet checked."""
        async with self._cluster.client(seconds=60) as client, asyncio.TaskGroup() as group:
            tormenting = group.create_task(self._torment())
            posting = []
            while not tormenting.done():
                posting.append(group.create_task(self._post(client, len(posting))))
                await asyncio.sleep(1 / self._plan.rate)
            await self._listen(client, len(posting))
            await asyncio.gather(*posting)
            await all_over(self._cluster.rows, BACK)
            self.report.jobs = len(self.report.accepted)
            await finish(self.report, self._cluster.rows, client)
        return self.report

    async def _post(self, client: httpx2.AsyncClient, number: int) -> None:
        job = Job(number, words=10)
        began = time.monotonic()
        answer = await client.post(
            "/api/v1/generations",
            json={"prompt": job.prompt, "background": True},
            headers={"idempotency-key": f"job-{number}"},
        )
        self.report.posts.append(time.monotonic() - began)
        if answer.status_code == 202:
            self.report.accepted[answer.json()["id"]] = job
        else:
            self.report.refused.append(answer.status_code)

    async def _torment(self) -> None:
        plan = self._plan
        await asyncio.sleep(1)
        self._redis.kill()
        await asyncio.sleep(plan.away)
        await asyncio.to_thread(self._redis.start)
        await asyncio.sleep(2)
        self._redis.freeze()
        await asyncio.sleep(plan.frozen)
        self._redis.thaw()
        await asyncio.sleep(1)
        for _ in range(plan.restarts):
            self._redis.kill()
            await asyncio.to_thread(self._redis.start)
            await asyncio.sleep(plan.within / plan.restarts)

    async def _listen(self, client: httpx2.AsyncClient, number: int) -> None:
        """Post on until each worker says that it has taken a message since the broker is back for good."""
        began = time.monotonic()
        before: dict[str, int] = {}
        async with asyncio.timeout(BACK):
            while len(self.report.heard) < 2 or not all(self.report.heard.values()):
                await self._post(client, number)
                number += 1
                taken = await asyncio.to_thread(self._taken)
                before = {**taken, **before}
                self.report.heard = {name: count - before[name] for name, count in taken.items()}
        self.report.back = time.monotonic() - began

    def _taken(self) -> dict[str, int]:
        """What each worker that answers over the broker has counted so far."""
        said = self._app.control.inspect(timeout=0.5).stats() or {}
        return {name: stats["total"].get(TASK, 0) for name, stats in said.items()}
