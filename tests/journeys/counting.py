"""Jobs that are counted: what was asked and accepted, what came of it, and whether a promise was broken."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

SEEN = "SELECT id, status, generations.version, output, attempts FROM generations JOIN contents USING (id)"
COUNTED = "SELECT sum(generations), sum(prompt_tokens), sum(completion_tokens) FROM usage_days"
OVER = ("completed", "failed", "cancelled")
AGAIN = (409, 502, 503, 504)  # what a client of a set-up that is being killed takes as "ask again"
PAUSE = 0.1  # before it does

Rows = Callable[..., Awaitable[list[Any]]]
"""Answers a statement; see Cluster.rows."""


@dataclass(frozen=True)
class Job:
    """One that is to be done, and what must come of it; each word takes a hundredth of a second."""

    number: int
    words: int

    @property
    def prompt(self) -> str:
        return f"[slow 0.01] [words {self.words}] job {self.number} counts"

    @property
    def output(self) -> str:
        return " ".join(itertools.islice(itertools.cycle(("job", str(self.number), "counts")), self.words))


@dataclass(kw_only=True)
class Count:
    """What was seen of so many jobs."""

    jobs: int
    accepted: dict[str, Job] = field(default_factory=dict)  # by the id that the 202 gave
    first: dict[str, tuple[int, str]] = field(default_factory=dict)  # version and output when first seen completed
    last: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # status, version and output at the end
    replayed: dict[int, str] = field(default_factory=dict)  # by number: the id that the same request gives at the end
    counted: tuple[int, int, int] = (0, 0, 0)  # of the day's counters: generations, tokens in, tokens out
    attempts: int = 0

    def see(self, rows: Sequence[Any]) -> None:
        """How they stand now, by SEEN."""
        self.last = {id: (status, version, output) for id, status, version, output, _ in rows}
        for id, (status, version, output) in self.last.items():
            if status == "completed":
                self.first.setdefault(id, (version, output))
        self.attempts = sum(row[-1] for row in rows)

    def check(self) -> None:
        """Raise AssertionError where a promise was broken."""
        assert len(self.accepted) == self.jobs, f"{len(self.accepted)} of {self.jobs} jobs were accepted"
        lost = {id: self.last.get(id) for id in self.accepted if self.last.get(id, ("", 0, ""))[0] != "completed"}
        assert not lost, f"{len(lost)} jobs were lost: {lost}"
        assert len(self.last) == self.jobs, f"{len(self.last)} records of {self.jobs} jobs"
        wrong = {id: self.last[id] for id, job in self.accepted.items() if self.last[id][2] != job.output}
        assert not wrong, f"{len(wrong)} outputs are wrong: {wrong}"
        assert self.replayed == {job.number: id for id, job in self.accepted.items()}, "a repeat made another job"
        generations, asked, answered = self.counted
        assert generations == self.jobs, f"{generations} results of {self.jobs} jobs"
        assert asked == sum(len(job.prompt.split()) for job in self.accepted.values())
        assert answered == sum(job.words for job in self.accepted.values())
        touched = {id: seen for id, seen in self.first.items() if self.last[id][1:] != seen}
        assert not touched, f"{len(touched)} results were touched after they were there: {touched}"


async def posted(client: httpx2.AsyncClient, job: Job) -> str:
    """Its id, once it is accepted. With a key, as a careful client asks, so that a lost answer makes no second job."""
    body, headers = {"prompt": job.prompt, "background": True}, {"idempotency-key": f"job-{job.number}"}
    while True:
        try:
            answer = await client.post("/api/v1/generations", json=body, headers=headers)
        except httpx2.TransportError:
            await asyncio.sleep(PAUSE)
            continue
        if answer.status_code == 202:
            return str(answer.json()["id"])
        assert answer.status_code in AGAIN, answer.text
        await asyncio.sleep(PAUSE)


async def all_over(rows: Rows, seconds: float) -> None:
    """Return when no generation is open any more. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while (await rows("SELECT count(*) FROM generations WHERE status != ALL(%s)", list(OVER)))[0][0]:
            await asyncio.sleep(0.1)


async def finish(count: Count, rows: Rows, client: httpx2.AsyncClient) -> None:
    """Ask for each job again, and see how all of them stand at the end."""
    for job in list(count.accepted.values()):
        count.replayed[job.number] = await posted(client, job)
    count.see(await rows(SEEN))
    generations, asked, answered = (await rows(COUNTED))[0]
    count.counted = (int(generations), int(asked), int(answered))
