"""A job that kills whoever runs it, good ones beside and behind it; and a worker that is frozen past its lease."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field

import httpx2

from journeys.cluster import Cluster, Part
from journeys.counting import Job, all_over

QUICK = {
    "LOQUENT_FAILPOINTS": "die",  # so that a prompt can kill; what else is set is as by default
    "LOQUENT_LEASE_SECONDS": "1.5",
    "LOQUENT_SWEEP_SECONDS": "0.3",
    "LOQUENT_CHECKPOINT_SECONDS": "0.2",
    "LOQUENT_SERVE_JOBS": "off",
}
POISON = "[die 0.2] poison"
WORDS = 60  # of a good job: what runs beside the poison is not over when it kills
LONG = 300  # words, of a job that takes longer than a lease
VERSIONS = "SELECT id, version FROM generations"
PATIENCE = 90.0


@dataclass
class Report:
    """What was seen."""

    deaths: int = 0
    poisons: list[tuple[str, int, str]] = field(default_factory=list)  # status, attempts and reason of each
    good: dict[str, int] = field(default_factory=dict)  # how the others ended, and how many
    runs: int = 0  # of the good ones
    seconds: float = 0.0

    def check(self, *, good: int, poisons: int = 1) -> None:
        """Raise AssertionError where a promise was broken."""
        assert self.good == {"completed": good}, self.good
        reasons = [(status, reason) for status, _, reason in self.poisons]
        assert reasons == [("failed", "3 runs ended without a result")] * poisons, self.poisons
        assert self.deaths <= 3 * poisons, f"{self.deaths} workers died of {poisons} jobs"
        assert self.runs > good, "the deaths cost no other job anything: that shows nothing"

    def __str__(self) -> str:
        return (
            f"{len(self.poisons)} jobs that kill: {self.deaths} dead workers, then {sorted(self.poisons)};"
            f" beside and behind them {self.good} in {self.runs} runs; {self.seconds:.1f} s"
        )


async def poisoned(cluster: Cluster, *, good: int = 50, poisons: int = 1) -> Report:
    """Have all of it waiting before anybody takes of it; start workers again when they die."""
    report, began = Report(), time.monotonic()
    for worker in cluster.workers:
        worker.send(signal.SIGSTOP)
    async with cluster.client() as client, asyncio.TaskGroup() as group:
        for _ in range(poisons):
            await _submit(client, POISON)
        for number in range(good):
            await _submit(client, Job(number, WORDS).prompt)
        for worker in cluster.workers:
            worker.send(signal.SIGCONT)
        watching = [group.create_task(_revive(worker, report)) for worker in cluster.workers]
        await all_over(cluster.rows, PATIENCE * poisons)
        for each in watching:
            each.cancel()
    kills = "input_preview LIKE '[die%%'"
    report.poisons = await cluster.rows(f"SELECT status, attempts, error_message FROM generations WHERE {kills}")  # noqa: S608
    ended = await cluster.rows(
        f"SELECT status, count(*), sum(attempts) FROM generations WHERE NOT {kills} GROUP BY status"  # noqa: S608
    )
    report.good = {status: count for status, count, _ in ended}
    report.runs = sum(int(attempts) for _, _, attempts in ended)
    report.seconds = time.monotonic() - began
    return report


@dataclass
class Thaw:
    """What was seen of a worker that was frozen with jobs in its hands until others had finished them."""

    held: int
    results: int  # that are counted for them
    touched: int  # records that changed after the thaw
    dropped: int  # of its own results, as it logged

    def check(self) -> None:
        """Raise AssertionError where a promise was broken."""
        assert self.results == self.held, f"{self.results} results of {self.held} jobs"
        assert not self.touched, f"{self.touched} records were touched by late writes"
        assert self.dropped, "it refused no late write: that shows nothing"

    def __str__(self) -> str:
        late = f"{self.dropped} late ones refused"
        return f"a worker frozen past its lease: {self.held} jobs, {self.results} results, {late}"


async def frozen(cluster: Cluster, count: int = 6) -> Thaw:
    """So many long jobs, a worker that is frozen with some of them, and thawed when all are over."""
    before = await _results(cluster)
    async with cluster.client() as client:
        for number in range(count):
            await _submit(client, Job(number, LONG).prompt)
    worker = await cluster.busy()
    worker.send(signal.SIGSTOP)
    said = len(worker.log())
    await all_over(cluster.rows, PATIENCE)
    ended = dict(await cluster.rows(VERSIONS))
    worker.send(signal.SIGCONT)
    await asyncio.sleep(LONG / 100)  # by now a late result would be written
    now = dict(await cluster.rows(VERSIONS))
    touched = sum(version != ended[id] for id, version in now.items())
    dropped = worker.log()[said:].count('"event":"result dropped"')
    return Thaw(count, await _results(cluster) - before, touched, dropped)


async def _results(cluster: Cluster) -> int:
    [[number]] = await cluster.rows("SELECT coalesce(sum(generations), 0) FROM usage_days")
    return int(number)


async def _submit(client: httpx2.AsyncClient, prompt: str) -> None:
    answer = await client.post("/api/v1/generations", json={"prompt": prompt, "background": True})
    assert answer.status_code == 202, answer.text


async def _revive(worker: Part, report: Report) -> None:
    """As whatever runs it in earnest does."""
    while True:
        if worker.process is not None and worker.process.poll() is not None:
            report.deaths += 1
            await worker.start()
        await asyncio.sleep(0.05)
