"""Jobs: claimed once, kept by a lease, finished behind a fence; none lost, none with two results."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path

import pytest

from built import ANN, opened, settings_for, wanted
from loquent.domain import failpoints
from loquent.domain.clock import later, now
from loquent.domain.evolve import evolve
from loquent.domain.generations import Content, Generation, claimed
from loquent.domain.usage import UsageDay, usage_day
from loquent.ports.store import Replace
from loquent.services import metrics
from loquent.services.gate import Gate
from loquent.services.summaries import Wish
from loquent.wiring import Services, build

pytestmark = pytest.mark.anyio
OWN = {"tenant": ANN.tenant, "owner": ANN.owner}


async def ended(services: Services, id: str) -> Generation:
    """The record once it is over."""
    async with asyncio.timeout(20):
        while True:
            [record] = await services.store.get(Generation, id)
            if record.is_over:
                return record
            await asyncio.sleep(0.01)


async def claim(services: Services, *, lease: float = 60, by: str = "another") -> Generation:
    """Take the next due job, as another worker would."""
    put, add = claimed(later(now(), lease), by)
    [record] = await services.store.take(Generation, "due", {}, until=now(), n=1, put=put, add=add)
    return record


async def test_a_passing_fault_is_tried_again_and_the_last_try_fails_with_the_reason(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[busy 0.05] x"))
        record = await ended(services, begun.generation.id)
    assert (record.status, record.attempts, record.error_code) == ("failed", 3, "engine_busy")


async def test_between_tries_a_job_waits_for_as_long_as_the_engine_asked(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[busy 600] x"))
        async with asyncio.timeout(10):
            while True:
                [record] = await services.store.get(Generation, begun.generation.id)
                if record.status == "pending" and record.attempts:
                    break
                await asyncio.sleep(0.01)
        assert record.due_at is not None
        assert 590 < (record.due_at - now()) / 1_000_000 <= 600
        assert record.error_code == "engine_busy"


async def test_a_lasting_fault_fails_at_the_first_try(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[fail] x"))
        record = await ended(services, begun.generation.id)
    assert (record.status, record.attempts, record.error_code) == ("failed", 1, "engine_failed")


async def test_a_job_whose_worker_died_is_taken_over_when_its_lease_runs_out(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        begun = await services.generations.submit(ANN, wanted("one two"))
        dead = await claim(services, lease=0.2)
        assert dead.id == begun.generation.id
        await services.worker.open(alone=False)
        record = await ended(services, dead.id)
    assert (record.status, record.attempts, record.fence) == ("completed", 2, 2)


async def test_a_process_that_is_alone_takes_up_orphans_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        for number in range(5):
            await services.generations.submit(ANN, wanted(f"job {number}"))
            await claim(services, lease=3600)
        await services.worker.open(alone=True)
        page = await services.store.page(Generation, "all", {}, limit=10)
        assert [(await ended(services, record.id)).status for record in page.items] == ["completed"] * 5


async def test_who_starts_beside_the_first_waits_until_that_one_has_taken_up_what_was_orphaned(tmp_path: Path) -> None:
    services = build(settings_for(tmp_path, LOQUENT_STORE=f"sqlite:///{tmp_path}/data/loquent.db"))
    with (tmp_path / "data" / "loquent.db.in-use").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        opening = asyncio.create_task(services.open())
        await asyncio.sleep(0.2)
        assert not opening.done()
        fcntl.flock(first, fcntl.LOCK_UN)
        await opening
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(first, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            await services.close()


async def test_a_job_that_kills_its_workers_is_stopped_after_three_runs(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        begun = await services.generations.submit(ANN, wanted("poison"))
        for _ in range(3):
            await claim(services, lease=0)
        await services.worker.open(alone=False)
        record = await ended(services, begun.generation.id)
    assert record.status == "failed"
    assert record.error_message == "3 runs ended without a result"


async def late_finish(services: Services) -> tuple[Generation, UsageDay]:
    """A worker freezes; another takes its job and finishes; the first wakes up and finishes too."""
    begun = await services.generations.submit(ANN, wanted("[slow 0.05] [words 20] word"))
    await services.worker.open(alone=False)
    id = begun.generation.id
    while id not in services.runner.lives:
        await asyncio.sleep(0.01)
    frozen = services.runner.lives.pop(id)  # its heart no longer beats
    [record] = await services.store.get(Generation, id)
    await services.store.write(Replace(record, evolve(record, due_at=now())))
    while services.runner.lives.get(id) in (None, frozen):
        services.worker._look.set()
        await asyncio.sleep(0.01)
    await ended(services, id)
    while services.worker._jobs or services.runner._concluding:
        await asyncio.sleep(0.01)
    [day] = await services.store.get(UsageDay, usage_day(ANN.tenant, ANN.owner, "echo", now()).id)
    [record] = await services.store.get(Generation, id)
    return record, day


async def test_a_late_result_is_dropped_behind_the_fence(tmp_path: Path) -> None:
    before = metrics.fenced._value.get()
    async with opened(tmp_path, works=False, LOQUENT_CHECKPOINT_SECONDS="30") as services:
        record, day = await late_finish(services)
    assert (record.status, record.fence, day.generations) == ("completed", 2, 1)
    assert metrics.fenced._value.get() == before + 1


async def test_without_the_fence_there_are_two_results(tmp_path: Path) -> None:
    """The negative control: the test above can see what the fence is for."""
    try:
        async with opened(
            tmp_path, works=False, LOQUENT_CHECKPOINT_SECONDS="30", LOQUENT_FAILPOINTS=failpoints.UNFENCED
        ) as services:
            _, day = await late_finish(services)
    finally:
        failpoints.arm("")
    assert day.generations == 2


async def test_a_lease_that_another_worker_took_ends_the_run_within_a_checkpoint(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[slow 0.01] [words 5000] word"))
        id = begun.generation.id
        while id not in services.runner.lives:
            await asyncio.sleep(0.01)
        live = services.runner.lives[id]
        await services.worker.close()
        while live.saving is not None:
            await asyncio.sleep(0)
        [record] = await services.store.get(Generation, id)
        await services.store.write(Replace(record, evolve(record, fence=record.fence + 1)))
        async with asyncio.timeout(10):
            while services.runner.lives:
                await asyncio.sleep(0.01)
        [record] = await services.store.get(Generation, id)
        assert record.status == "processing"


async def test_cancelling_from_another_process_ends_the_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[slow 0.01] [words 5000] word"))
        id = begun.generation.id
        while id not in services.runner.lives:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            while True:  # a checkpoint may be quicker than this write, as in life
                [record] = await services.store.get(Generation, id)
                try:
                    await services.store.write(Replace(record, evolve(record, cancel_requested=True)))
                    break
                except Exception:
                    await asyncio.sleep(0)
        record = await ended(services, id)
    assert (record.status, record.finish_reason) == ("cancelled", "cancelled")


async def test_a_foreground_answer_of_a_dead_process_is_closed_with_what_there_is(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        begun = await services.generations.begin(ANN, wanted("[slow 0.01] [words 5000] word", streamed=True))
        running = asyncio.create_task(services.generations.collect(begun))
        while not begun.live or not begun.live.saved or not begun.live.content.output:
            await asyncio.sleep(0.01)
        lost = services.runner.lives.pop(begun.generation.id)  # nobody is left to finish it
        [record] = await services.store.get(Generation, begun.generation.id)
        await services.worker.open(alone=True)
        record = await ended(services, begun.generation.id)
        [content] = await services.store.get(Content, record.id)
        assert (record.status, record.finish_reason, record.error_code) == ("failed", "interrupted", "unavailable")
        assert content.output.startswith("word")
        lost.stop("fenced")
        await running


async def test_a_job_whose_model_has_gone_fails_with_its_name(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        begun = await services.generations.submit(ANN, wanted("x"))
        del services.models.offers["echo"]  # type: ignore[attr-defined]  # as a deployment without that row
        await services.worker.open(alone=False)
        record = await ended(services, begun.generation.id)
    assert record.status == "failed"
    assert "'echo'" in (record.error_message or "")


async def test_no_more_jobs_run_at_once_than_there_are_slots(tmp_path: Path) -> None:
    async with opened(tmp_path, LOQUENT_JOB_SLOTS="2") as services:
        for _ in range(8):
            await services.generations.submit(ANN, wanted("[slow 0.01] [words 5] x"))
        most = 0
        while await services.store.count(Generation, "kind_status", {**OWN, "kind": "text", "status": "completed"}) < 8:
            most = max(most, len(services.runner.lives))
            await asyncio.sleep(0.005)
    assert most == 2


async def in_slots(services: Services, calls: int) -> Gate:
    """The gate of the echo model, once so many calls are through it and others wait."""
    gate = services.models.offers["echo"].gate
    assert gate is not None
    while gate.inside < calls or not gate.waiting:
        await asyncio.sleep(0.005)
    return gate


async def answer_beside(services: Services) -> str:
    begun = await services.generations.begin(ANN, wanted("quick"))
    await services.generations.collect(begun)
    return begun.now()[0].status


async def test_jobs_leave_a_slot_of_their_engine_to_who_waits_for_an_answer(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        services.models.offers["echo"].gate = Gate("echo", 3)
        jobs = [await services.generations.submit(ANN, wanted("[slow 9] [words 9] x")) for _ in range(5)]
        gate = await in_slots(services, 2)
        async with asyncio.timeout(8):  # within the first word of any job
            assert [await answer_beside(services) for _ in range(3)] == ["completed"] * 3
        assert (gate.inside, gate.waiting) == (2, 3)
        for job in jobs:
            await services.generations.cancel(ANN, job.generation.id)


async def test_the_parts_of_a_long_text_leave_a_slot_of_their_engine_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        services.models.offers["echo"].gate = Gate("echo", 3)
        text = "[slow 9] some words. " * 400  # the echo model says a word each nine seconds
        begun = await services.summaries.begin(ANN, text, Wish(model="echo"), surface="cli")
        summing = asyncio.create_task(services.generations.collect(begun))
        gate = await in_slots(services, 2)
        async with asyncio.timeout(8):
            assert await answer_beside(services) == "completed"
        assert (gate.inside, gate.waiting) == (2, 2)
        summing.cancel()
        await asyncio.gather(summing, return_exceptions=True)
