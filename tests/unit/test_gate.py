"""The gate: so many at once, everybody in turn, a bounded line, and no slot lost to those who leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from loquent.domain.errors import EngineBusy, EngineTimeout
from loquent.services.gate import Gate

pytestmark = pytest.mark.anyio

LONG = 60.0


class Crowd:
    """Those who want through a gate; ``order`` says who came through."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *askers: str) -> None:
        """Each takes its place, or goes through where that is free; they stay inside until they are let out."""
        self.tasks += [asyncio.create_task(self._through(asker)) for asker in askers]
        await asyncio.sleep(0)

    async def _through(self, asker: str) -> None:
        await self.gate.enter(asker, LONG)
        self.order.append(asker)

    async def let_out(self, times: int) -> None:
        for _ in range(times):
            self.gate.leave(None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def go_home(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_as_many_as_there_are_slots_go_in_at_once_and_the_next_when_one_leaves() -> None:
    crowd = Crowd(Gate("m", 2))
    await crowd.come("a", "b", "c")
    assert (crowd.order, crowd.gate.inside, crowd.gate.waiting, crowd.gate.is_full) == (["a", "b"], 2, 1, True)
    await crowd.let_out(1)
    assert (crowd.order, crowd.gate.inside, crowd.gate.waiting) == (["a", "b", "c"], 2, 0)
    await crowd.let_out(2)
    assert (crowd.gate.inside, crowd.gate.is_full) == (0, False)


async def test_whoever_has_many_in_line_does_not_pass_over_the_one_who_has_one() -> None:
    crowd = Crowd(Gate("m", 1))
    await crowd.come("many", "many", "many", "many", "one", "two", "one")
    await crowd.let_out(6)
    assert crowd.order == ["many", "many", "one", "two", "many", "one", "many"]


@pytest.mark.parametrize("line", [0, 3])
async def test_a_full_line_sends_away_and_says_when_to_come_again(line: int) -> None:
    gate = Gate("m", 1, line=line)
    crowd = Crowd(gate)
    await crowd.come(*["a"] * (line + 1))
    with pytest.raises(EngineBusy) as refused:
        await gate.enter("a", LONG)
    assert (refused.value.retry_after or 0) >= 1
    assert (gate.inside, gate.waiting) == (1, line)
    await crowd.go_home()


async def test_whoever_fills_the_line_gives_up_a_place_to_another_and_to_nobody_with_as_many() -> None:
    gate = Gate("m", 1, line=4)
    crowd = Crowd(gate)
    await crowd.come(*["greedy"] * 5)
    await crowd.come("ann", "bob")
    assert gate.waiting == 4
    with pytest.raises(EngineBusy):  # two of the greedy, one of each: nobody would be better off
        await gate.enter("ann", LONG)
    with pytest.raises(EngineBusy):
        await gate.enter("greedy", LONG)
    await settled()
    assert [type(task.exception()) for task in crowd.tasks if task.done() and task.exception()] == [EngineBusy] * 2
    await crowd.let_out(4)
    assert crowd.order == ["greedy", "greedy", "ann", "bob", "greedy"]
    assert (gate.inside, gate.waiting) == (1, 0)


async def test_who_waits_too_long_is_told_so_and_leaves_no_gap() -> None:
    gate = Gate("m", 1)
    crowd = Crowd(gate)
    await crowd.come("a")
    with pytest.raises(EngineTimeout):
        await gate.enter("b", 0.01)
    assert (gate.inside, gate.waiting) == (1, 0)
    await crowd.come("c")
    await crowd.let_out(1)
    assert crowd.order == ["a", "c"]


async def test_who_leaves_the_line_is_passed_over() -> None:
    crowd = Crowd(Gate("m", 1))
    await crowd.come("a", "b", "b", "c")
    crowd.tasks[1].cancel()
    await settled()
    assert crowd.gate.waiting == 2
    await crowd.let_out(2)
    assert crowd.order == ["a", "b", "c"]


async def test_a_slot_that_is_given_to_one_who_leaves_in_the_same_moment_goes_to_the_next() -> None:
    crowd = Crowd(Gate("m", 1))
    await crowd.come("a", "b", "c")
    crowd.gate.leave(None)  # b has it, and does not know yet
    crowd.tasks[1].cancel()
    await settled()
    assert (crowd.order, crowd.gate.inside, crowd.gate.waiting) == (["a", "c"], 1, 0)


async def test_one_who_leaves_before_the_slot_comes_does_not_get_it() -> None:
    crowd = Crowd(Gate("m", 1))
    await crowd.come("a", "b", "c")
    crowd.tasks[1].cancel()
    crowd.gate.leave(None)  # b has not had a turn since
    await settled()
    assert (crowd.order, crowd.gate.inside, crowd.gate.waiting) == (["a", "c"], 1, 0)


async def test_one_who_is_sent_away_and_leaves_in_the_same_moment_takes_no_slot_along() -> None:
    gate = Gate("m", 1, line=2)
    crowd = Crowd(gate)
    await crowd.come("greedy", "greedy", "greedy")
    ann = asyncio.create_task(gate.enter("ann", LONG))
    await asyncio.sleep(0)
    crowd.tasks[2].cancel()  # ann has its place, and it does not know yet
    await settled()
    assert (crowd.tasks[2].cancelled(), gate.inside, gate.waiting) == (True, 1, 2)
    gate.leave(None)
    gate.leave(None)
    assert await ann
    assert (gate.inside, gate.waiting) == (1, 0)


async def test_whatever_comes_and_goes_no_slot_is_lost_and_none_is_there_twice() -> None:
    chance = random.Random(4)
    gate, most, most_patient = Gate("m", 3, line=10), 0, 0

    async def caller(asker: str, leaves: Callable[[], float]) -> None:
        nonlocal most, most_patient
        is_patient = asker in "def"
        entered = await gate.enter(asker, 0.02, is_patient=is_patient)
        try:
            most, most_patient = max(most, gate.inside), max(most_patient, gate._patient)
            await asyncio.sleep(leaves())
        finally:
            gate.leave(entered, is_patient=is_patient)

    tasks = []
    for _ in range(1000):
        tasks.append(asyncio.create_task(caller(chance.choice("abcdef"), lambda: chance.random() * 0.002)))
        if chance.random() < 0.5:
            chance.choice(tasks).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.001)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in done} <= {type(None), EngineBusy, EngineTimeout, asyncio.CancelledError}
    assert sum(each is None for each in done) > 50
    assert (most, most_patient) == (3, 2)
    assert (gate.inside, gate._patient, gate.waiting, gate._lines, list(gate._turns)) == (0, 0, 0, {}, [])


async def test_those_who_are_patient_leave_one_slot_to_who_waits_for_an_answer() -> None:
    gate = Gate("m", 3)
    jobs = [asyncio.create_task(gate.enter(asker, LONG, is_patient=True)) for asker in "abcd"]
    await settled()
    assert ([job.done() for job in jobs], gate.inside, gate.is_full) == ([True, True, False, False], 2, False)
    entered = await gate.enter("ann", LONG)
    assert gate.is_full
    gate.leave(entered)
    await settled()
    assert (gate.inside, jobs[2].done()) == (2, False), "what a question leaves is not for a third job"
    gate.leave(await jobs[0], is_patient=True)
    await settled()
    assert (gate.inside, jobs[2].done(), jobs[3].done()) == (2, True, False)
    for job in jobs[1:]:
        gate.leave(await job, is_patient=True)
    assert (gate.inside, gate.waiting, gate._lines, list(gate._turns)) == (0, 0, {}, [])


async def test_who_waits_for_an_answer_is_not_behind_his_own_jobs_and_they_have_their_turns() -> None:
    crowd = Crowd(Gate("m", 2))
    crowd.tasks += [asyncio.create_task(crowd.gate.enter("ann", LONG, is_patient=True)) for _ in range(4)]
    await settled()
    await crowd.come("x", "ann", "bob")
    assert (crowd.order, crowd.gate.waiting) == (["x"], 5)
    crowd.gate.leave(None, is_patient=True)
    await settled()
    assert sum(task.done() for task in crowd.tasks[:4]) == 2, "it is the jobs' turn, and one slot is theirs"
    await crowd.let_out(2)
    assert crowd.order == ["x", "ann", "bob"]
    await crowd.go_home()


async def test_one_slot_is_for_all() -> None:
    gate = Gate("m", 1)
    job = await gate.enter("ann", LONG, is_patient=True)
    question = asyncio.create_task(gate.enter("ann", LONG))
    await settled()
    assert not question.done()
    gate.leave(job, is_patient=True)
    gate.leave(await question)
    assert gate.inside == 0


async def test_a_job_that_leaves_the_line_or_with_a_slot_just_given_takes_none_along() -> None:
    gate = Gate("m", 2)
    first = await gate.enter("a", LONG, is_patient=True)
    jobs = [asyncio.create_task(gate.enter(asker, LONG, is_patient=True)) for asker in "bcd"]
    await settled()
    jobs[1].cancel()
    gate.leave(first, is_patient=True)  # b has it, and does not know yet
    jobs[0].cancel()
    await settled()
    gate.leave(await jobs[2], is_patient=True)
    assert (gate.inside, gate.waiting, gate._patient, list(gate._turns)) == (0, 0, 0, [])
