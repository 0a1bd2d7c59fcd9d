"""The job machine under any order of events: workers claim, are late, die and stop; callers cancel; time jumps.

One store, the real services over it, engines that answer when the machine says so. Whatever happened: no job is lost,
none has two results, and what was used is counted once.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import time_machine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from built import ANN, settings_for, wanted
from loquent.domain.clock import later, now
from loquent.domain.errors import EngineBusy, EngineFailed, Unavailable
from loquent.domain.generations import Content, Generation, claimed
from loquent.domain.usage import Usage, UsageDay
from loquent.ports.engine import Chunk
from loquent.services.generations import Key
from loquent.services.jobs import Worker
from loquent.services.live import FENCED, Live
from loquent.services.runner import Pace, Runner
from loquent.wiring import build

T = TypeVar("T")
LEASE, TRIES, SLOTS = 60.0, 3, 2
DAY = 24 * 3600.0
MOST = 10_000
PAST = datetime(2026, 3, 1, tzinfo=UTC)
FAULTS = (EngineBusy("later", retry_after=5.0), Unavailable("away"), EngineFailed("broken"))
PICK = st.integers(0, MOST)


@dataclass(eq=False)
class Run:
    """One run of a job: what it answers is told by the machine, or never."""

    live: Live
    process: Process
    told: asyncio.Future[str | Exception] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def id(self) -> str:
        return self.live.generation.id


class Process:
    """A worker's process. It does nothing by itself: one whose turn does not come is frozen, and wakes up late."""

    def __init__(self, machine: Jobs) -> None:
        self._machine = machine
        services = machine.services
        pace = Pace(lease=LEASE, checkpoint=0.0, max_attempts=TRIES)
        self.runner = Runner(services.store, {"text": self._recipe}, pace)
        self.worker = Worker(
            services.store, self.runner, services.models, services.queue, slots=SLOTS, sweep_seconds=DAY
        )

    async def _recipe(self, live: Live) -> AsyncIterator[Chunk]:
        run = Run(live, self)
        self._machine.began(run)
        yield Chunk("so ")
        told = await run.told
        if isinstance(told, Exception):
            raise told
        yield Chunk(told, "stop", Usage(3, 5))


class Jobs(RuleBasedStateMachine):
    """The machine. Every rule is something that happens; the invariant is what holds whatever happens."""

    store = "memory:"

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._travel = time_machine.travel(PAST, tick=False)
        self.clock = self._travel.start()
        self._loop = asyncio.new_event_loop()
        folder = Path(self._folder.name)
        self.services = build(settings_for(folder, LOQUENT_STORE=self.store, LOQUENT_LIMIT_GENERATIONS="off"))
        self.do(self.services.open(works=False))
        self.processes = [Process(self), Process(self)]
        self.runs: list[Run] = []  # those that may still answer
        self.accepted: dict[str, str | None] = {}  # id -> its key
        self.keys: dict[str, tuple[str, int]] = {}  # key -> id, and when it was first used
        self.begun: Counter[str] = Counter()  # runs of each job
        self.most = 0  # attempts, with which one of them was run
        self.spared: Counter[str] = Counter()  # claims that were given back, or died before they ran
        self.answers: dict[tuple[str, int], str] = {}  # what the run with that fence said
        self.seen: dict[str, Generation] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have it done, and let everything come to rest."""

        async def done() -> T:
            async with asyncio.timeout(30):
                came = await work
                while self._is_busy():
                    await asyncio.sleep(0)
            return came

        return self._loop.run_until_complete(done())

    def began(self, run: Run) -> None:
        """A recipe is asked for an answer."""
        self.begun[run.id] += 1
        self.most = max(self.most, run.live.generation.attempts)
        self.runs.append(run)

    def _is_busy(self) -> bool:
        if not hasattr(self, "processes"):
            return False
        at_work = sum(len(process.worker._jobs) for process in self.processes)
        waiting = [run for run in self.runs if not run.told.done()]
        return at_work != len(waiting) or any(process.runner._concluding for process in self.processes)

    def open_runs(self) -> list[Run]:
        self.runs = [run for run in self.runs if not run.told.done()]
        return self.runs

    # What happens

    @initialize()
    def begin(self) -> None:
        for _ in range(3):
            self.accept(None)
        self.claim(0)

    @rule(key=st.sampled_from((None, None, "a", "b")))
    def accept(self, key: str | None) -> None:
        named = key and Key("POST /api/v1/generations", key, b"{}")
        begun = self.do(self.services.generations.submit(ANN, wanted("x", key=named)))
        id = begun.generation.id
        known, used = self.keys.get(key or "", ("", 0))
        assert begun.replayed == (known == id)
        assert begun.replayed or not known or now() >= later(used, DAY)  # type: ignore[arg-type]  # a Moment
        if not begun.replayed:
            assert id not in self.accepted
            self.accepted[id] = key
            if key:
                self.keys[key] = (id, now())

    @rule(pick=PICK)
    def claim(self, pick: int) -> None:
        self.do(self.processes[pick % len(self.processes)].worker._take())

    @rule()
    def claim_and_die(self) -> None:
        put, add = claimed(later(now(), LEASE), "ghost")
        self.clock.shift(LEASE + 1)
        for record in self.do(self.services.store.take(Generation, "due", {}, until=now(), n=4, put=put, add=add)):
            self.spared[record.id] += 1

    @rule(pick=PICK)
    def freeze(self, pick: int) -> None:
        """All but one of the processes stand still, past their leases."""
        self.clock.shift(LEASE + 1)
        self.claim(pick)

    @precondition(lambda self: self.open_runs())
    @rule(pick=PICK, fault=st.sampled_from((None, None, *FAULTS)))
    def answer(self, pick: int, fault: Exception | None) -> None:
        """Also one that froze and wakes up late: it does not know that its time is over."""
        run = self.runs[pick % len(self.runs)]
        text = f"answer {len(self.answers)}"
        self.answers[run.id, run.live.generation.fence] = f"so {text}"
        run.told.set_result(fault or text)
        self.do(asyncio.sleep(0))

    @rule(pick=PICK)
    def beat(self, pick: int) -> None:
        self.do(self.processes[pick % len(self.processes)].runner._checkpoint_all())

    @rule(what=st.sampled_from(("sweep", "stop", "power cut")), pick=PICK)
    def upheaval(self, what: str, pick: int) -> None:
        process = self.processes[pick % len(self.processes)]
        if what == "sweep":
            self.do(process.worker._forget_repeats())
            self.do(process.worker._tell_oldest())
        elif what == "stop":
            self._stop(process)
        else:
            self._bury()
            self.processes = [Process(self), Process(self)]
            self.do(self.processes[0].worker._recover())  # it comes up alone

    def _stop(self, process: Process) -> None:
        """Clean; another process comes in its place."""
        for run in self.open_runs():
            self.spared[run.id] += run.process is process
        self.do(process.runner.drain(0))
        self.do(process.runner.close())
        self.processes[self.processes.index(process)] = Process(self)

    @precondition(lambda self: self.accepted)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        ids = list(self.accepted)
        self.do(self.services.generations.cancel(ANN, ids[pick % len(ids)]))

    @rule(seconds=st.sampled_from((6.0, 30.0, DAY)))
    def time_passes(self, seconds: float) -> None:
        self.clock.shift(seconds)

    # What holds

    @invariant()
    def none_is_lost_and_none_has_two_results(self) -> None:
        records = self.records()
        assert set(records) == set(self.accepted)
        assert self.most <= TRIES, "a job was run once more than it may be"
        for id, record in records.items():
            before = self.seen.get(id, record)
            assert record.fence >= before.fence
            assert record.version >= before.version
            assert not before.is_over or record == before, "a result was touched"
            assert (record.due_at is None) == record.is_over, "nobody would ever look at it again"
            assert record.attempts <= record.fence
            assert self.begun[id] <= TRIES + self.spared[id]
        self.seen = records
        over = [record for record in records.values() if record.prompt_tokens is not None]
        assert all(record.is_over for record in over)
        days = self.days()
        assert sum(day.generations for day in days) == len(over), "results and counters differ"
        assert sum(day.prompt_tokens for day in days) == sum(record.prompt_tokens or 0 for record in over)
        assert sum(day.completion_tokens for day in days) == sum(record.completion_tokens or 0 for record in over)
        for content in self.do(self.services.store.get(Content, *records)):
            record = records[content.id]
            if record.status == "completed":
                assert content.output == self.answers[record.id, record.fence], "a result of another run"

    def records(self) -> dict[str, Generation]:
        page = self.do(self.services.store.page(Generation, "all", {}, limit=MOST))
        return {record.id: record for record in page.items}

    def days(self) -> list[UsageDay]:
        return self.do(self.services.store.page(UsageDay, "all", {}, limit=MOST)).items

    def teardown(self) -> None:
        """Once the storm is over, everything comes to its end."""
        try:
            self._bury()
            self.processes = [Process(self)]
            for _ in range((TRIES + 2) * (1 + len(self.accepted))):
                self.clock.shift(LEASE + 1)
                self.do(self.processes[0].worker._take())
                while self.open_runs():
                    self.answer(0, None)
                if all(record.is_over for record in self.records().values()):
                    break
            self.none_is_lost_and_none_has_two_results()
            left = [record for record in self.records().values() if not record.is_over]
            assert not left, f"these never end: {left}"
        finally:
            self._bury()
            self.do(self.services.close())
            self._loop.close()
            self._travel.stop()
            self._folder.cleanup()

    def _bury(self) -> None:
        """They die, all of them, and write nothing any more."""
        for run in self.open_runs():
            run.live.stop(FENCED)
        self.do(asyncio.sleep(0))


class JobsOnSqlite(Jobs):
    """The same on a file."""

    store = ""


@pytest.mark.parametrize(("machine", "examples"), [(Jobs, 200), (JobsOnSqlite, 25)])
def test_in_any_order_of_events_no_job_is_lost_and_none_has_two_results(machine: type[Jobs], examples: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
