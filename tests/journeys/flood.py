"""A flood of jobs from one tenant, against small bounds; another tenant's jobs, and what reads, go on beside it.

``python -m journeys.flood`` (from ``tests/``) runs it at any length; test_flood.py has the short form.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import math
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import psutil

from loquent.domain.clock import now
from loquent.domain.users import User
from loquent.services.tokens import Tokens
from serving import Served, served

SECRET = "a secret of the tests, 32 bytes or more"
SLOTS, LENGTH = 2, 0.5  # jobs at once, and seconds that each takes
MOST = 100  # that may wait
JOB = {"prompt": f"[slow {LENGTH / 5}] [words 5] word", "background": True}
BOUNDS = {
    "LOQUENT_JOB_SLOTS": str(SLOTS),
    "LOQUENT_LIMIT_GENERATIONS": "40/minute",
    "LOQUENT_MAX_PENDING": str(MOST),
    "LOQUENT_MAX_PENDING_TENANT": "120",
    "LOQUENT_MAX_PENDING_CALLER": "5",
}
EVERY = 2.0  # seconds between the other tenant's jobs
PATIENCE = 60.0
GLANCE = 0.05  # seconds between reads
AT_ONCE = 100  # requests of the flood


@dataclass(frozen=True)
class Plan:
    """How much."""

    jobs: int = 2_000
    seconds: float = 12.0
    users: int = 20
    quick: float = 3.0  # seconds of 99 reads of 100, where few are counted on a machine that has other things to do


@dataclass
class Report:
    """What was seen."""

    plan: Plan
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    bare: list[str] = field(default_factory=list)  # refusals that do not say when to come again
    waits: list[float] = field(default_factory=list)  # seconds, of the other tenant's jobs
    lengths: list[float] = field(default_factory=list)  # seconds, that they took then
    reads: list[float] = field(default_factory=list)
    came_again: collections.Counter[int] = field(default_factory=collections.Counter)  # after as long as was told
    memory: list[int] = field(default_factory=list)  # bytes, twice a second
    most: int = 0  # that waited at any time
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """Of the memory, from the first third to the last, in parts of the first."""
        third = max(1, len(self.memory) // 3)
        return statistics.median(self.memory[-third:]) / statistics.median(self.memory[:third]) - 1

    def __str__(self) -> str:
        asked = sum(self.statuses.values())
        return (
            f"{asked} jobs asked for in {self.seconds:.1f} s: {dict(self.statuses)}, at most {self.most} waited; "
            f"the other tenant's waited {max(self.waits):.2f} s at most (of {len(self.waits)}, each took up to "
            f"{max(self.lengths):.2f} s); reads p50 "
            f"{share(self.reads, 0.5) * 1000:.0f} ms, p99 {share(self.reads, 0.99) * 1000:.0f} ms (of "
            f"{len(self.reads)}); who came again when told: {dict(self.came_again)}; memory "
            f"{self.memory[0] / 1e6:.0f} to {self.memory[-1] / 1e6:.0f} MB, {self.growth:+.1%}"
        )

    def check(self) -> None:
        """Raise AssertionError where a promise is broken."""
        assert sum(self.statuses.values()) == self.plan.jobs
        assert self.most <= MOST, self.most
        assert set(self.statuses) == {202, 429, 503}, self.statuses
        assert not self.bare, self.bare[:3]
        assert max(self.waits) <= 2 * max(self.lengths), self.waits
        assert len(self.waits) >= self.plan.seconds / EVERY / 2
        assert share(self.reads, 0.99) < self.plan.quick
        assert set(self.came_again) == {202}, self.came_again
        assert self.growth < 0.15, self.memory


def share(values: Iterable[float], part: float) -> float:
    """The value that this part of them does not pass."""
    known = sorted(values)
    return known[math.ceil(part * len(known)) - 1]


def caller(url: str, name: str, tenant: str) -> httpx2.AsyncClient:
    """Somebody with a token."""
    user = User(f"usr_{name}", 1, tenant, name, None, "", True, now())
    token = Tokens(SECRET, minutes=60).issue(user)
    told = {"authorization": f"Bearer {token}"}
    return httpx2.AsyncClient(base_url=url, timeout=60, headers=told, verify=False)  # to read certificates takes long


async def flood(server: Served, report: Report) -> None:
    """So many in so long, whatever is answered."""
    room = asyncio.Semaphore(AT_ONCE)
    users = [caller(server.url, f"flood{number}", "flood") for number in range(report.plan.users)]
    began = time.monotonic()

    async def ask(which: int) -> None:
        async with room:
            answer = await users[which % len(users)].post("/api/v1/generations", json=JOB)
        report.statuses[answer.status_code] += 1
        if answer.status_code in (429, 503) and int(answer.headers.get("retry-after", 0)) < 1:
            report.bare.append(answer.text)

    async with asyncio.TaskGroup() as group:
        for which in range(report.plan.jobs):
            late = began + which * report.plan.seconds / report.plan.jobs - time.monotonic()
            if late > 0:
                await asyncio.sleep(late)
            group.create_task(ask(which))
    report.seconds = time.monotonic() - began
    for user in users:
        await user.aclose()


async def other(server: Served, report: Report) -> None:
    """Another tenant, with a job now and then."""
    async with caller(server.url, "bob", "other") as bob:
        while True:
            answer = await bob.post("/api/v1/generations", json=JOB)
            assert answer.status_code == 202, answer.text
            path = answer.headers["location"]
            while not (record := (await bob.get(path)).json())["started_at"]:
                await asyncio.sleep(0.05)
            report.waits.append(seconds_between(record["created_at"], record["started_at"]))
            while not (record := (await bob.get(path)).json())["completed_at"]:
                await asyncio.sleep(0.05)
            report.lengths.append(seconds_between(record["started_at"], record["completed_at"]))
            await asyncio.sleep(EVERY)


async def read(server: Served, report: Report) -> None:
    """Somebody who looks at what is theirs."""
    async with caller(server.url, "bob", "other") as bob:
        await bob.get("/api/v1/generations")  # the first of a server that has just begun readies what all use
        while True:
            began = time.perf_counter()
            answer = await bob.get("/api/v1/generations", params={"limit": 20})
            report.reads.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
            await asyncio.sleep(GLANCE)


async def come_again(server: Served, report: Report, which: int) -> None:
    """One of the tenant that floods, who does as is told."""
    async with caller(server.url, f"patient{which}", "flood") as patient:
        while True:
            answer = await patient.post("/api/v1/generations", json=JOB)
            if answer.status_code == 202:
                await asyncio.sleep(1)
                continue
            await asyncio.sleep(int(answer.headers["retry-after-ms"]) / 1000)
            again = await patient.post("/api/v1/generations", json=JOB)
            report.came_again[again.status_code] += 1


async def weigh(server: Served, report: Report) -> None:
    """What memory the server takes, and how many wait."""
    process = psutil.Process(server.process.pid)
    waiting = "SELECT count(*) FROM generations WHERE status = 'pending'"
    while True:
        with closing(sqlite3.connect(f"file:{server.log.parent}/data/loquent.db?mode=ro", uri=True)) as store:
            report.most = max(report.most, store.execute(waiting).fetchone()[0])
        report.memory.append(process.memory_info().rss)
        await asyncio.sleep(0.5)


async def run(plan: Plan, folder: Path, **environ: str) -> Report:
    """All of them at once."""
    report = Report(plan)
    with served(folder, LOQUENT_SECRET=SECRET, **{**BOUNDS, **environ}) as server:
        beside = [other, read, weigh]
        tasks = [asyncio.create_task(each(server, report)) for each in beside]
        tasks += [asyncio.create_task(come_again(server, report, which)) for which in range(3)]
        await flood(server, report)
        async with asyncio.timeout(PATIENCE):
            while not report.came_again:  # on a slow machine it takes longer until there is room
                await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):  # cancelled, or wrong
            if isinstance(ended, Exception):
                raise ended
    return report


def seconds_between(one: Any, another: Any) -> float:
    """Of two times as the API tells them."""
    begin, end = (datetime.fromisoformat(each) for each in (one, another))
    return (end - begin).total_seconds()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        seen = asyncio.run(run(Plan(asked.jobs, asked.seconds, quick=0.5), Path(place)))
    print(seen)
    seen.check()
