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
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from built import ANN, opened, settings_for, wanted
from loquent.domain import failpoints
from loquent.domain.clock import later, now
from loquent.domain.errors import EngineBusy, EngineFailed, Unavailable
from loquent.domain.generations import Content, Generation, begin, claimed
from loquent.domain.requests import NOTHING
from loquent.domain.usage import Usage, UsageDay
from loquent.ports.engine import Chunk
from loquent.ports.store import Add, Change, Store
from loquent.services.jobs import SWEEP, Worker
from loquent.services.live import FENCED, Live
from loquent.services.pace import Pace
from loquent.services.recipes import RECIPES
from loquent.services.runner import Runner
from loquent.services.wanted import Key
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
    failpoints = ""
    patience = 30.0  # seconds in which all comes to rest

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._travel = time_machine.travel(PAST, tick=False)
        self.clock = self._travel.start()
        self._loop = asyncio.new_event_loop()
        folder = Path(self._folder.name)
        environ = {"LOQUENT_STORE": self.store, "LOQUENT_FAILPOINTS": self.failpoints}
        self.services = build(settings_for(folder, LOQUENT_LIMIT_GENERATIONS="off", **environ))
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
            async with asyncio.timeout(self.patience):
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
        self.do(self.processes[pick % len(self.processes)].runner.checkpoints.look())

    @rule(what=st.sampled_from(("sweep", "stop", "power cut")), pick=PICK)
    def upheaval(self, what: str, pick: int) -> None:
        process = self.processes[pick % len(self.processes)]
        if what == "sweep":
            self.do(process.worker._suspects.keep())
            self.do(process.worker._forget_repeats())
        elif what == "stop":
            self._stop(process)
        else:
            self._bury()
            self.processes = [Process(self), Process(self)]
            self.do(self.processes[0].worker._recover())  # it comes up alone
            waiting = [record.due_at for record in self.records().values() if record.status == "processing"]
            assert all(due is not None and due <= now() for due in waiting), "it waits for a process that is no more"

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
                assert content.output == self.answers.get((record.id, record.fence)), "a result of another run"

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


class Unfenced(Jobs):
    """The same without the fence."""

    failpoints = failpoints.UNFENCED
    patience = 10.0  # what never comes to rest need not be waited for so long


def play(machine: type[Jobs], examples: int, **more: Any) -> None:
    """So many stories, each of up to forty events."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


@pytest.mark.parametrize(  # the many go the ways of the few, and unmeasured at a third of the time
    ("machine", "examples"), [pytest.param(Jobs, 150, marks=pytest.mark.no_cover), (JobsOnSqlite, 15)]
)
def test_in_any_order_of_events_no_job_is_lost_and_none_has_two_results(machine: type[Jobs], examples: int) -> None:
    play(machine, examples)


def test_without_the_fence_the_same_events_break_it() -> None:
    """The negative control."""
    try:
        with pytest.raises((AssertionError, TimeoutError)):  # two results, or runs that never come to rest
            play(Unfenced, 200, phases=[Phase.generate])
    finally:
        failpoints.arm("")


@pytest.mark.anyio
async def test_a_process_that_is_alone_takes_up_any_number_of_orphans(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        put, add = claimed(later(now(), -1), "another")  # their leases have run out already
        for _ in range(2 * SWEEP + 1):
            begun = begin(
                ANN, kind="text", surface="api", mode="background", model="echo", parameters={}, text="x", due_at=None
            )
            await services.store.write(
                Add(begun), Add(Content(begun.id, 0, ANN.tenant, ANN.owner, {"prompt": "x"}, ""))
            )
        await services.store.take(Generation, "due", {}, until=now(), n=MOST, put=put, add=add)
        async with asyncio.timeout(60):
            await services.worker.open(alone=True)
            while await services.store.count(Generation, "due", {}):
                await asyncio.sleep(0.01)


@pytest.mark.anyio
@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_a_stop_in_the_midst_of_a_claim_hands_the_job_back(tmp_path: Path, turns: int) -> None:
    environ = {"LOQUENT_STORE": "", "LOQUENT_SWEEP_SECONDS": "60"}
    async with opened(tmp_path, works=False, **environ) as services:
        begun = await services.generations.submit(ANN, wanted("[hang] x"))
        await services.worker.open(alone=False)
        for _ in range(turns):
            await asyncio.sleep(0)
        await services.drain(0)
        [record] = await services.store.get(Generation, begun.generation.id)
    assert (record.status, record.attempts, record.lease_by) == ("pending", 0, None)


class Forgetful:
    """A store that does what it is told, and then says that it does not know whether it did."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.faults = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, *changes: Change) -> None:
        await self._store.write(*changes)
        if self.faults:
            self.faults -= 1
            raise Unavailable("the line was cut")


@pytest.mark.anyio
@pytest.mark.parametrize("saved", [True, False])
async def test_a_result_that_was_written_though_the_store_said_it_was_away_counts_once(
    tmp_path: Path, saved: bool
) -> None:
    async with opened(tmp_path, works=False) as services:
        record = begin(
            ANN, kind="text", surface="api", mode="foreground", model="echo", parameters={}, text="x", due_at=now()
        )
        content = Content(record.id, 0, ANN.tenant, ANN.owner, {"prompt": "one two"}, "")
        if saved:
            await services.store.write(Add(record), Add(content))
            [record] = await services.store.get(Generation, record.id)
            [content] = await services.store.get(Content, record.id)
        live = Live(services.models.offer("echo"), record, content, NOTHING, streamed=True, saved=saved)
        runner = Runner(Forgetful(services.store), RECIPES, Pace())
        await runner.collect(live)
        [ended] = await services.store.get(Generation, record.id)
        days = await services.store.page(UsageDay, "all", {}, limit=10)
    assert ended.status == "completed"
    assert [day.generations for day in days.items] == [1]
