"""A PostgreSQL that is restarted again and again under mixed traffic: 503 with Retry-After in the gaps, nothing else.

Every second restart is a crash of the whole server. No request hangs, no job that was answered with 202 is lost, and
soon after each restart all is answered as ever.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx2

from journeys.cluster import Cluster
from journeys.counting import Job, all_over

QUICK = {"LOQUENT_LEASE_SECONDS": "5", "LOQUENT_SWEEP_SECONDS": "0.5", "LOQUENT_SERVE_JOBS": "off"}
HANGING = 12.0  # seconds after which a request counts as one that hangs
RECOVERED = 5.0  # seconds after a restart, in which all must be well again
PATIENCE = 60.0
API = "/api/v1/generations"


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    restarts: int = 2  # in the end, and in a crash
    every: float = 5.0  # seconds
    away: float = 1.0  # of these, that it is gone
    clients: int = 1  # of each kind


@dataclass(frozen=True)
class Answered:
    """One request: what it was, what came of it, when it began and how long it took."""

    kind: str
    status: int
    waits: str | None  # Retry-After
    began: float
    seconds: float


@dataclass
class Report:
    """What was seen."""

    plan: Plan
    answers: list[Answered] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # what should not be
    gaps: list[tuple[float, float]] = field(default_factory=list)  # when it went, and when it was back
    accepted: dict[str, Job] = field(default_factory=dict)
    ended: dict[str, tuple[str, str]] = field(default_factory=dict)  # job -> status and output
    results: tuple[int, int] = (0, 0)  # records with a result, and results that are counted

    @property
    def recovered(self) -> float:
        """Seconds from a restart to the last refusal that followed it; the longest."""
        refused = [each.began + each.seconds for each in self.answers if each.status == 503]
        starts = [gone for gone, _ in self.gaps[1:]] + [float("inf")]
        late = [
            at - back
            for (_, back), following in zip(self.gaps, starts, strict=True)
            for at in refused
            if back < at < following
        ]
        return max(late, default=0.0)

    def slowest(self, status: int) -> float:
        """Seconds until such an answer."""
        return max((each.seconds for each in self.answers if each.status == status), default=0.0)

    def check(self) -> None:
        """Raise AssertionError where a promise was broken."""
        assert not self.faults, f"{len(self.faults)} faults: {Counter(self.faults).most_common(5)}"
        odd = [each for each in self.answers if each.status >= 400 and each.status != 503]
        assert not odd, f"{len(odd)} odd answers: {odd[:5]}"
        bare = [each for each in self.answers if each.status == 503 and not each.waits]
        assert not bare, f"{len(bare)} refusals do not say when to come back: {bare[:5]}"
        first = self.gaps[0][0]
        early = [each for each in self.answers if each.status == 503 and each.began + each.seconds < first]
        assert not early, f"refused while all was well: {early[:5]}"
        assert self.recovered <= RECOVERED, f"still refused {self.recovered:.1f} s after a restart"
        lost = {id: self.ended.get(id) for id, job in self.accepted.items() if self.ended.get(id) != done(job)}
        assert not lost, f"{len(lost)} jobs were lost: {lost}"
        assert self.results[0] == self.results[1], "some have two results, or none is counted"

    def __str__(self) -> str:
        said = Counter((each.kind, each.status) for each in self.answers)
        told = ", ".join(f"{kind} {status}: {count}" for (kind, status), count in sorted(said.items()))
        return (
            f"PostgreSQL restarted {len(self.gaps)} times, every {self.plan.every:g} s, away {self.plan.away:g} s and"
            f" more: {told}; slowest 503 {self.slowest(503):.1f} s; last 503 {self.recovered:.2f} s after a restart;"
            f" {len(self.accepted)} jobs accepted, all done; {self.results[0]} results, none twice"
        )


def done(job: Job) -> tuple[str, str]:
    """How a job ends that is not lost."""
    return "completed", job.output


class Rig:
    """Clients of several kinds that ask again and again, and one who restarts the database."""

    def __init__(self, plan: Plan, cluster: Cluster) -> None:
        self.report = Report(plan)
        self._plan, self._cluster = plan, cluster
        self._numbers = itertools.count()
        self._known: list[str] = []

    async def run(self) -> Report:
        """All of it; what was seen, not yet checked."""
        kinds: tuple[Callable[[httpx2.AsyncClient], Awaitable[httpx2.Response]], ...]
        kinds = (self._submit, self._ask, self._chat, self._stream, self._list, self._get)
        async with self._cluster.client(seconds=HANGING) as client, asyncio.TaskGroup() as group:
            asking = [group.create_task(self._again(client, kind)) for kind in kinds for _ in range(self._plan.clients)]
            await asyncio.sleep(2)
            for number in range(self._plan.restarts):
                await self._restart(signal.SIGKILL if number % 2 else signal.SIGINT)
            for each in asking:
                each.cancel()
        await all_over(self._cluster.rows, PATIENCE)
        await self._count()
        return self.report

    async def _restart(self, how: signal.Signals) -> None:
        gone = time.monotonic()
        await asyncio.to_thread(self._cluster.postgres.stop, how)
        await asyncio.sleep(self._plan.away)
        await asyncio.to_thread(self._cluster.postgres.start)
        self.report.gaps.append((gone, time.monotonic()))
        await asyncio.sleep(max(0.0, gone + self._plan.every - time.monotonic()))

    async def _again(
        self, client: httpx2.AsyncClient, ask: Callable[[httpx2.AsyncClient], Awaitable[httpx2.Response]]
    ) -> None:
        kind = ask.__name__.strip("_")
        while True:
            began = time.monotonic()
            try:
                answer = await ask(client)
            except httpx2.TransportError as error:
                self.report.faults.append(f"{kind}: {type(error).__name__}")
            else:
                waits, took = answer.headers.get("retry-after"), time.monotonic() - began
                self.report.answers.append(Answered(kind, answer.status_code, waits, began, took))
            await asyncio.sleep(0.1)

    # What is asked

    async def _submit(self, client: httpx2.AsyncClient) -> httpx2.Response:
        job = Job(next(self._numbers), words=20)
        answer = await client.post(
            API,
            json={"prompt": job.prompt, "background": True},
            headers={"idempotency-key": f"job-{job.number}"},
        )
        if answer.status_code == 202:
            self.report.accepted[answer.json()["id"]] = job
            self._known.append(answer.json()["id"])
        return answer

    async def _ask(self, client: httpx2.AsyncClient) -> httpx2.Response:
        return await client.post(API, json={"prompt": "[slow 0.01] one two three"})

    async def _chat(self, client: httpx2.AsyncClient) -> httpx2.Response:
        body = {"model": "echo", "messages": [{"role": "user", "content": "[slow 0.01] one two three"}]}
        return await client.post("/v1/chat/completions", json=body)

    async def _stream(self, client: httpx2.AsyncClient) -> httpx2.Response:
        answer = await client.post(API, json={"prompt": "[slow 0.02] [words 20] word", "stream": True})
        if answer.status_code == 200 and not ("event: done" in answer.text or "event: error" in answer.text):
            self.report.faults.append("a stream ends without a word")
        return answer

    async def _list(self, client: httpx2.AsyncClient) -> httpx2.Response:
        return await client.get(API)

    async def _get(self, client: httpx2.AsyncClient) -> httpx2.Response:
        return await client.get(f"{API}/{self._known[-1]}" if self._known else API)

    async def _count(self) -> None:
        rows = await self._cluster.rows("SELECT id, status, output FROM generations JOIN contents USING (id)")
        self.report.ended = {id: (status, output) for id, status, output in rows}
        [[over]] = await self._cluster.rows("SELECT count(*) FROM generations WHERE prompt_tokens IS NOT NULL")
        [[counted]] = await self._cluster.rows("SELECT sum(generations) FROM usage_days")
        self.report.results = (int(over), int(counted))
