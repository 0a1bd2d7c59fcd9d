"""Jobs under fire: a server that is killed again and again, a worker that freezes past its lease; then the count.

``python -m journeys.chaos`` (from ``tests/``) runs it at any length; test_chaos.py has the short form.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from daemon import free_port
from journeys.counting import COUNTED, OVER, SEEN, Count, Job, posted
from journeys.processes import PATIENCE, end_of, is_up, start

LEASE = 1.5
QUICK = {
    "LOQUENT_LEASE_SECONDS": str(LEASE),
    "LOQUENT_SWEEP_SECONDS": "0.2",
    "LOQUENT_CHECKPOINT_SECONDS": "0.2",
    "LOQUENT_MAX_ATTEMPTS": "100",  # a kill takes up to eight jobs down at once, and none of them is to blame
}
WORDS = (1, 5, 20, 60, 120)  # of an answer, each a hundredth of a second: the longest takes most of a lease
FAILPOINTS = ("after-commit:3", "after-ring:2", "after-claim:2", "before-finish:4", "after-finish:3")
SOON = 0.6  # seconds after which a server that is up is dead, at the latest
ARMED = 4.0  # the same where it is to die at a failpoint: what comes first is good enough
LATE = 2.5  # seconds after a thaw, by which a late result would have been written
STUCK = 10.0  # seconds after which a freeze is given up: it may have caught the worker with the store's lock in hand


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    jobs: int = 200
    kills: int = 20
    freezes: int = 3
    fenced: bool = True
    words: tuple[int, ...] = WORDS
    seed: int = 1


@dataclass(kw_only=True)
class Report(Count):
    """What was seen."""

    plan: Plan
    at_failpoints: int = 0  # kills that a server did to itself
    freezes: int = 0  # after which another had the worker's jobs
    taken_over: int = 0  # jobs of the frozen worker that another finished or held when it woke up
    seconds: float = 0.0

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"{plan.jobs} jobs, {plan.kills} kills ({self.at_failpoints} at failpoints), {plan.freezes} freezes that"
            f" cost it {self.taken_over} jobs: {self.attempts} runs, {self.counted[0]} results,"
            f" {self.seconds:.1f} s, seed {plan.seed}"
        )


class Rig:
    """A server that dies, a worker that freezes, clients that insist, and one who only watches."""

    def __init__(self, plan: Plan, folder: Path, port: int) -> None:
        self.report = Report(jobs=plan.jobs, plan=plan)
        self._plan = plan
        self._folder = folder
        self._address = f"http://127.0.0.1:{port}"
        self._environ = {**QUICK, "LOQUENT_PORT": str(port)}
        self._chance = random.Random(plan.seed)
        self._jobs = [Job(number, self._chance.choice(plan.words)) for number in range(plan.jobs)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._thawed_at = 0.0
        self._is_posted = False

    async def run(self) -> Report:
        """All of it; what was seen, not yet checked."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE + 6 * self._plan.kills), self._client() as client:
                await self._fire(client)
        finally:
            for process in self._processes:
                process.kill()
                process.wait()
        self.report.seconds = time.monotonic() - began
        return self.report

    async def _fire(self, client: httpx2.AsyncClient) -> None:
        server = self._start("serve")
        assert await is_up(server, self._address)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            freezing = group.create_task(self._freeze(self._start("worker")))
            kills, armed = self._plan.kills, ""
            rounds = [self._jobs[at :: kills + 1] for at in range(kills + 1)]
            posting = []
            for number, batch in enumerate(rounds[:-1]):
                posting += [group.create_task(self._post(client, job)) for job in batch]
                await self._end(server, armed)
                armed = FAILPOINTS[number // 2 % len(FAILPOINTS)] if number % 2 == 0 and number + 1 < kills else ""
                server = self._start("serve", armed)
                await is_up(server, self._address)
            posting += [group.create_task(self._post(client, job)) for job in rounds[-1]]
            await asyncio.gather(*posting)
            self._is_posted = True
            await freezing
            await self._until_over()
            watching.cancel()
        for job in self._jobs:
            self.report.replayed[job.number] = await posted(client, job)
        self.report.see(self._select(SEEN))
        [self.report.counted] = self._select(COUNTED)

    def _start(self, command: str, armed: str = "") -> subprocess.Popen[bytes]:
        points = ",".join(filter(None, (armed, "" if self._plan.fenced else "unfenced")))
        process = start(self._folder, command, **self._environ, LOQUENT_FAILPOINTS=points)
        self._processes.append(process)
        return process

    async def _end(self, server: subprocess.Popen[bytes], armed: str) -> None:
        """Have it die: at its failpoint, or by us at a moment that nobody chose."""
        try:
            await end_of(server, ARMED if armed else self._chance.uniform(0, SOON))
            self.report.at_failpoints += 1
        except TimeoutError:
            server.kill()
        assert await end_of(server) == -signal.SIGKILL, "the server ended by itself"

    # The clients

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx2.AsyncClient]:
        async with httpx2.AsyncClient(base_url=self._address, timeout=10, verify=False) as client:
            yield client

    async def _post(self, client: httpx2.AsyncClient, job: Job) -> None:
        self.report.accepted[await posted(client, job)] = job

    # The worker

    async def _freeze(self, worker: subprocess.Popen[bytes]) -> None:
        """Stop its world while it is at work, for twice the lease and until another has its work; again and again."""
        while self.report.freezes < self._plan.freezes and (held := await self._caught(worker)):
            await asyncio.sleep(2 * LEASE)
            until = time.monotonic() + STUCK
            while not (taken := self._gone_on(held)) and time.monotonic() < until:
                await asyncio.sleep(0.1)
            self.report.taken_over += taken
            self.report.freezes += taken > 0
            worker.send_signal(signal.SIGCONT)
            self._thawed_at = time.monotonic()
            await asyncio.sleep(LEASE / 2)

    async def _caught(self, worker: subprocess.Popen[bytes]) -> dict[str, int]:
        """What it holds, once it has been stopped with something in its hands; nothing where all is over before."""
        while True:
            while not self._held_by(worker.pid):
                if self._is_posted and not self._open():
                    return {}
                assert worker.poll() is None, "the worker ended by itself"
                await asyncio.sleep(0.02)
            worker.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.05)
            if held := self._held_by(worker.pid):  # as it stands now: nothing moves there any more
                return held
            worker.send_signal(signal.SIGCONT)

    def _held_by(self, pid: int) -> dict[str, int]:
        """The longer ones of the jobs that a process works on, with their fences."""
        rows = self._select(
            "SELECT id, fence FROM generations"
            " WHERE status = 'processing' AND lease_by LIKE ? AND input_preview LIKE ?",
            f"%:{pid}",
            f"%[words {WORDS[-1]}]%",
        )
        return dict(rows)

    def _gone_on(self, held: dict[str, int]) -> int:
        """How many of these are with another by now, or over by another's hand."""
        marks = ",".join("?" * len(held))
        rows = self._select(f"SELECT id, fence FROM generations WHERE id IN ({marks})", *held)  # noqa: S608
        return sum(fence > held[id] for id, fence in rows)

    # What is seen, in the file itself

    async def _until_over(self) -> None:
        until = time.monotonic() + PATIENCE
        while self._open() and time.monotonic() < until:
            await asyncio.sleep(0.1)
        while time.monotonic() < self._thawed_at + LATE:
            await asyncio.sleep(0.1)

    def _open(self) -> int:
        [(number,)] = self._select("SELECT count(*) FROM generations WHERE status NOT IN (?, ?, ?)", *OVER)
        return int(number)

    async def _watch(self) -> None:
        while True:
            self.report.see(self._select(SEEN))
            await asyncio.sleep(0.25)

    def _select(self, text: str, *values: Any) -> list[Any]:
        file = self._folder / "data" / "loquent.db"
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=10)) as store:
            return store.execute(text, values).fetchall()


def main() -> None:
    """Run it from the command line, at any length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--freezes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            Rig(Plan(asked.jobs, asked.kills, asked.freezes, seed=asked.seed), Path(folder), free_port()).run()
        )
    sys.stdout.write(f"{report}\n")
    report.check()


if __name__ == "__main__":
    main()
