"""Routing: who is asked, how often, and after whom; what the caller is told; and nothing held by those who leave."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from built import ANN, opened, wanted
from loquent.domain.errors import (
    Cancelled,
    ContextOverflow,
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    ModelLoading,
    NotInstalled,
    Unavailable,
)
from loquent.domain.models import Model, Timeouts
from loquent.domain.requests import Message, Parameters
from loquent.domain.usage import Price, Usage
from loquent.ports.engine import Ask, Chunk
from loquent.services import metrics
from loquent.services.breaker import CLOSED, FAULTS, HALF_OPEN, OPEN, Breaker
from loquent.services.models import Models, Offer
from loquent.services.routing import PATIENCE, shuffled, stream
from loquent.services.tries import Try, priced, told

pytestmark = pytest.mark.anyio

Step = str | float | Chunk | BaseException | asyncio.Event
HANG, STUCK = -1.0, -2.0
"""Steps of a script: no answer for as long as the ask allows; no answer, and no deadline either."""


class Scripted:
    """An engine by the port that does what it was told: a script for each call, then answers with its own name."""

    def __init__(self, name: str, *scripts: Sequence[Step]) -> None:
        self.name = name
        self.scripts = list(scripts)
        self.asks: list[Ask] = []
        self.running = 0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def ready(self) -> None: ...

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        script = self.scripts[len(self.asks)] if len(self.asks) < len(self.scripts) else (self.name,)
        self.asks.append(ask)
        self.running += 1
        try:
            for step in script:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif step == HANG:
                    await asyncio.sleep(ask.model.timeouts.total)
                    raise EngineTimeout("hung")
                elif isinstance(step, float):
                    await asyncio.sleep(3600 if step == STUCK else step)
                else:
                    yield step if isinstance(step, Chunk) else Chunk(step)
        finally:
            self.running -= 1


def offered(*engines: Scripted, chain: bool = True, breaker: Breaker | None = None, **row: Any) -> Offer:
    """An offer of the first, whose row falls back on the second, as that does on the third."""
    rows = []
    for number, engine in enumerate(engines):
        after = tuple(each.name for each in engines[number + 1 : number + 2]) if chain else ()
        model = Model(engine.name, "scripted", engine.name, **{"fallback": after, **row})
        rows.append(Offer(model, engine, breaker=breaker or Breaker()))
    return Models(rows).offers[engines[0].name]


async def answered(offer: Offer, trail: list[Try] | None = None, *, asker: str = "ann", **more: Any) -> str:
    ask = Ask(offer.model, Parameters(), (Message("user", "hi"),), **more)
    tries: list[Try] = [] if trail is None else trail
    return "".join([chunk.text async for chunk in stream(offer, ask, tries, asker=asker)])


async def fault(offer: Offer, **more: Any) -> LoquentError:
    with pytest.raises(LoquentError) as raised:
        await answered(offer, **more)
    return raised.value


def busy(seconds: float | None) -> EngineBusy:
    """As a remote engine says it."""
    said = EngineBusy("slow down", retry_after=seconds)
    said.engine_status = 429
    return said


def away() -> Unavailable:
    return Unavailable("away")


# One engine.


async def test_the_plain_case_hands_the_ask_over_as_it_is_and_says_what_it_costs() -> None:
    one = Scripted("one", ("he", "llo", Chunk(finish_reason="stop", usage=Usage(3, 2))))
    offer, trail = offered(one, price=Price(1_000_000, 2_000_000)), list[Try]()
    ask = Ask(offer.model, Parameters(temperature=0.5), (Message("user", "hi"),))
    chunks = [chunk async for chunk in stream(offer, ask, trail)]
    assert "".join(chunk.text for chunk in chunks) == "hello"
    assert chunks[-1].usage == Usage(3, 2, cost=7)
    assert one.asks[0] is ask
    assert [(each.offer, each.code) for each in trail] == [(offer, None)]


async def test_an_engine_that_knows_its_price_keeps_it_and_one_that_says_nothing_is_an_empty_answer() -> None:
    one = Scripted("one", (Chunk(usage=Usage(1, 1, cost=99)),), ())
    offer = offered(one, price=Price(1_000_000, 1_000_000))
    ask = Ask(offer.model, Parameters())
    assert [chunk.usage async for chunk in stream(offer, ask, [])] == [Usage(1, 1, cost=99)]
    assert [chunk async for chunk in stream(offer, ask, [])] == []
    assert offer.breaker.state == CLOSED


async def test_a_fault_that_may_pass_is_tried_again_before_the_first_piece() -> None:
    one, trail = Scripted("one", (away(),), (away(),)), list[Try]()
    assert await answered(offered(one), trail) == "one"
    assert [each.code for each in trail] == ["unavailable", "unavailable", None]


@pytest.mark.parametrize("retries", [0, 1])
async def test_it_is_tried_so_often_and_then_the_caller_is_told_when_to_come_again(retries: int) -> None:
    one = Scripted("one", *[(away(),)] * 5)
    refused = await fault(offered(one, retries=retries))
    assert (type(refused), refused.message, len(one.asks)) == (Unavailable, "away", 1 + retries)
    assert isinstance(refused, Unavailable) and refused.retry_after


@pytest.mark.parametrize(
    "kind", [EngineFailed, EngineTimeout, ModelLoading, NotInstalled, Invalid, ContextOverflow, Cancelled]
)
async def test_what_a_second_try_does_not_mend_is_not_tried_again(kind: type[LoquentError]) -> None:
    one = Scripted("one", (kind("no"),))
    assert type(await fault(offered(one))) is kind
    assert len(one.asks) == 1


async def test_after_the_first_piece_nothing_is_tried_again_and_nobody_else_is_asked() -> None:
    one, two, got = Scripted("one", ("beg", away())), Scripted("two"), ""
    offer, trail = offered(one, two), list[Try]()
    with pytest.raises(Unavailable):
        async for chunk in stream(offer, Ask(offer.model, Parameters()), trail):
            got += chunk.text
    assert (got, len(one.asks), len(two.asks)) == ("beg", 1, 0)
    assert trail[0].code == "unavailable"


async def test_an_engine_that_asks_for_a_short_wait_is_given_it_where_nobody_else_can_answer() -> None:
    one, begun = Scripted("one", (busy(0.3),)), time.monotonic()
    assert await answered(offered(one)) == "one"
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize(("seconds", "retries"), [(PATIENCE + 60, 2), (PATIENCE, 0)])
async def test_a_wait_that_is_long_or_of_no_use_is_the_callers(seconds: float, retries: int) -> None:
    one, begun = Scripted("one", (busy(seconds),)), time.monotonic()
    refused = await fault(offered(one, retries=retries))
    assert isinstance(refused, EngineBusy) and refused.retry_after == seconds
    assert (len(one.asks), time.monotonic() - begun < PATIENCE) == (1, True)


async def test_after_faults_in_a_row_it_is_left_alone_then_asked_by_one_whose_success_lets_all_ask() -> None:
    clock = [100.0]
    one = Scripted("one", *[(EngineTimeout("slow"),)] * FAULTS)
    offer = offered(one, breaker=Breaker(lambda: clock[0]))
    for _ in range(FAULTS):
        await fault(offer)
    refused, trail = await fault(offer), list[Try]()
    assert isinstance(refused, Unavailable) and 1 < (refused.retry_after or 0) < 3
    assert (len(one.asks), offer.breaker.state) == (FAULTS, OPEN)
    clock[0] += 3
    one.scripts.append((0.05, "well"))
    first, second = await asyncio.gather(answered(offer), answered(offer, trail), return_exceptions=True)
    assert (first, type(second).__base__, trail) == ("well", Unavailable, [])
    assert (await answered(offer), offer.breaker.state) == ("one", CLOSED)


async def test_whose_fault_opens_the_breaker_is_told_of_it_and_not_made_to_pause() -> None:
    one = Scripted("one", (away(),))
    offer = offered(one)
    for _ in range(FAULTS - 1):
        offer.breaker.leave(False)
    refused = await fault(offer)
    assert isinstance(refused, Unavailable)
    assert (refused.message, 1 < (refused.retry_after or 0) < 3, len(one.asks)) == ("away", True, 1)


async def test_a_trial_that_streams_for_long_lets_the_others_in_at_its_first_piece() -> None:
    clock, goes_on = [100.0], asyncio.Event()
    one = Scripted("one", *[(EngineTimeout("slow"),)] * FAULTS, ("be", goes_on, "gun"))
    offer = offered(one, breaker=Breaker(lambda: clock[0]))
    for _ in range(FAULTS):
        await fault(offer)
    clock[0] += 3
    async with aclosing(stream(offer, Ask(offer.model, Parameters()), [])) as trial:
        assert (await anext(trial)).text == "be"
        assert await answered(offer) == "one"
        goes_on.set()
        assert (await anext(trial)).text == "gun"


# Several.


@pytest.mark.parametrize("kind", [Unavailable, EngineFailed, EngineTimeout, ModelLoading, NotInstalled, EngineBusy])
async def test_the_stand_in_answers_where_the_engine_cannot(kind: type[LoquentError]) -> None:
    one, two, trail = Scripted("one", (kind("no"),)), Scripted("two"), list[Try]()
    count = metrics.fallbacks.labels("one", "two")
    before = count._value.get()
    assert await answered(offered(one, two, retries=0), trail) == "two"
    assert [each["model"] for each in told(trail)] == ["one", "two"]
    assert [each.get("error") for each in told(trail)] == [kind.code, None]
    assert count._value.get() == before + 1


async def test_a_chain_is_gone_down_to_its_end_and_nobody_is_asked_twice() -> None:
    one, two, three = Scripted("one", (away(),)), Scripted("two", (away(),)), Scripted("three")
    offer = offered(one, two, three, retries=0)
    assert await answered(offer) == "three"
    assert [len(each.asks) for each in (one, two, three)] == [1, 1, 1]
    assert [group[0].label for group in offer.groups] == ["one", "two", "three"]


async def test_where_nobody_can_answer_the_caller_is_told_the_shortest_wait() -> None:
    one, two = Scripted("one", (EngineFailed("no"),)), Scripted("two", (busy(30),))
    refused = await fault(offered(one, two))
    assert type(refused) is Unavailable and refused.retry_after == 30
    one, two = Scripted("one", (EngineFailed("no"),)), Scripted("two", (EngineTimeout("slow"),))
    assert type(await fault(offered(one, two))) is EngineTimeout


@pytest.mark.parametrize("kind", [Invalid, ContextOverflow, Cancelled])
async def test_what_the_asker_did_is_told_him_and_asked_of_nobody_else(kind: type[LoquentError]) -> None:
    one, two = Scripted("one", (kind("no"),)), Scripted("two")
    assert type(await fault(offered(one, two))) is kind
    assert two.asks == []


@pytest.mark.parametrize("kind", [Invalid, ContextOverflow])
async def test_what_only_a_stand_in_finds_wrong_is_not_the_askers_fault(kind: type[Invalid]) -> None:
    one, two, three = Scripted("one", (away(),)), Scripted("two", (kind("no"),)), Scripted("three")
    assert await answered(offered(one, two, three, retries=0)) == "three"
    one, two = Scripted("one", (away(),)), Scripted("two", (kind("no"),))
    refused = await fault(offered(one, two, retries=0))
    assert type(refused) is Unavailable and refused.retry_after


async def test_an_engine_that_asks_for_a_wait_has_it_while_its_stand_in_answers() -> None:
    clock = [100.0]
    one, two = Scripted("one", (busy(1.5),)), Scripted("two")
    offer, begun = offered(one, two), time.monotonic()
    offer.breaker = Breaker(lambda: clock[0])
    assert [await answered(offer) for _ in range(3)] == ["two"] * 3
    assert (len(one.asks), offer.breaker.state, time.monotonic() - begun < 1.5) == (1, OPEN, True)
    clock[0] += 1.5
    assert await answered(offer) == "one"


async def test_a_short_wait_is_taken_where_the_stand_in_is_left_alone() -> None:
    one, two = Scripted("one", (busy(0.1),)), Scripted("two")
    offer = offered(one, two)
    offer.groups[1][0].breaker.rest(60)
    assert await answered(offer) == "one"
    assert two.asks == []


async def test_each_engine_sees_its_own_row_under_the_callers_name_and_its_own_defaults() -> None:
    one, two = Scripted("one", (EngineFailed("no"),)), Scripted("two", (Chunk(usage=Usage(1, 1)),))
    rows = [
        Offer(Model("one", "x", "1", fallback=("two",), defaults=Parameters(top_p=0.1, max_tokens=5)), one),
        Offer(Model("two", "y", "2", defaults=Parameters(top_p=0.2), price=Price(0, 7_000_000)), two),
    ]
    offer = Models(rows).offers["one"]
    ask = Ask(offer.model, Parameters(max_tokens=9), (Message("user", "hi"),))
    [chunk] = [chunk async for chunk in stream(offer, ask, [])]
    assert chunk.usage == Usage(1, 1, cost=7)
    assert one.asks[0].parameters == Parameters(max_tokens=9, top_p=0.1)
    seen = two.asks[0]
    assert (seen.model.name, seen.model.id, seen.parameters) == ("one", "2", Parameters(max_tokens=9, top_p=0.2))
    assert seen.messages == ask.messages


def test_a_use_that_nobody_priced_costs_what_the_last_who_was_asked_takes() -> None:
    offer = Offer(Model("m", "x", "x", price=Price(0, 3_000_000)), Scripted("m"))
    called = Model("n", "x", "x", price=Price(0, 1_000_000))
    assert priced(Usage(1, 1), [Try(offer)], called) == 3
    assert priced(Usage(1, 1), [], called) == 1
    assert priced(Usage(1, 1, cost=5), [Try(offer)], called) == 5


# Equals.


def equals(*weights: float, **row: Any) -> list[Offer]:
    """Rows of one name with these weights."""
    rows = [Offer(Model("m", "x", str(n), weight=w, **row), Scripted(f"e{n}")) for n, w in enumerate(weights)]
    Models(rows)
    return rows


async def test_equals_share_the_asks_by_their_weight() -> None:
    rows = equals(3, 1)
    assert [each.label for each in rows] == ["m", "m#2"]
    for _ in range(2000):
        await answered(rows[0])
    count = [len(each.engine.asks) for each in rows]  # type: ignore[attr-defined]
    assert sum(count) == 2000
    assert 1350 < count[0] < 1650


def test_every_order_is_as_likely_as_the_weights_say() -> None:
    rows = equals(2, 1, 1)
    seen = Counter(tuple(each.model.id for each in shuffled(rows)) for _ in range(6000))
    expected = {"012": 1500, "021": 1500, "102": 1000, "120": 500, "201": 1000, "210": 500}
    for order, count in expected.items():
        assert abs(seen[tuple(order)] - count) < 200


async def test_of_equals_whoever_rests_or_is_full_is_asked_last_and_stands_in_for_the_other() -> None:
    rest, full, free = rows = equals(1e6, 1e3, 1e-6, concurrency=1)
    rest.breaker.rest(60)
    assert full.gate is not None
    await full.gate.enter("bob", 1)
    assert {tuple(shuffled(rows)) for _ in range(50)} == {(free, full, rest)}
    full.gate.leave(None)
    full.engine.scripts = [(away(),)] * 3  # type: ignore[attr-defined]
    assert await answered(rest) == "e2"


# Time.


@pytest.mark.parametrize("last", [HANG, STUCK])
async def test_the_callers_total_bounds_all_tries_whatever_the_last_does(last: float) -> None:
    one, two = Scripted("one", (0.3, EngineFailed("no"))), Scripted("two", (last,))
    offer, begun = offered(one, two, timeouts=Timeouts(total=0.9)), time.monotonic()
    assert isinstance(await fault(offer), EngineTimeout)
    assert time.monotonic() - begun < 10
    assert two.running == 0
    assert two.asks[0].model.timeouts.total < 0.65


@pytest.mark.parametrize("streamed", [True, False])
async def test_who_does_not_begin_to_answer_leaves_half_of_the_time_to_the_stand_in(streamed: bool) -> None:
    one, two = Scripted("one", (HANG,)), Scripted("two")
    assert await answered(offered(one, two, timeouts=Timeouts(total=1.0)), streamed=streamed) == "two"
    assert one.running == 0
    assert 0.05 < two.asks[0].model.timeouts.total < 0.51


async def test_who_has_begun_in_half_of_the_time_has_all_of_it_to_end() -> None:
    one, two = Scripted("one", ("be", 0.6, "gun")), Scripted("two")
    assert await answered(offered(one, two, timeouts=Timeouts(total=1.0))) == "begun"
    assert one.asks[0].model.timeouts.total == 1.0


async def test_alone_or_where_its_stand_in_is_left_alone_it_has_all_of_the_time() -> None:
    one, two = Scripted("one", (0.6, "late"), (0.6, "late")), Scripted("two")
    assert await answered(offered(one, timeouts=Timeouts(total=1.0))) == "late"
    offer = offered(one, two, timeouts=Timeouts(total=1.0))
    offer.groups[1][0].breaker.rest(60)
    assert await answered(offer) == "late"


async def test_no_pause_goes_past_the_end_of_the_time() -> None:
    one, begun = Scripted("one", (busy(2.0),)), time.monotonic()
    assert isinstance(await fault(offered(one, timeouts=Timeouts(total=0.5))), EngineBusy)
    assert time.monotonic() - begun < 2


async def test_an_engine_that_had_hardly_any_time_is_not_ill_for_being_late() -> None:
    late = [Scripted("one", (0.6, EngineFailed("no"))), Scripted("two", (HANG,))]
    offer = offered(*late, timeouts=Timeouts(total=1.0))
    second = offer.groups[1][0]
    for _ in range(FAULTS - 1):
        second.breaker.leave(False)
    await fault(offer)
    assert (len(late[1].asks), second.breaker.state) == (1, CLOSED)
    late[1].scripts.append((HANG,))
    await fault(second)  # with all of its time: the control
    assert second.breaker.state == OPEN


async def test_an_answer_that_went_on_for_all_of_its_time_is_no_sign_of_illness_and_a_silence_is() -> None:
    one = Scripted("one", *[("on and on", 0.1, EngineTimeout("late"))] * FAULTS)
    offer = offered(one, timeouts=Timeouts(total=0.1))
    for _ in range(FAULTS):
        await fault(offer)
    assert offer.breaker.state == CLOSED
    one = Scripted("one", *[("a word", EngineTimeout("silent"))] * FAULTS)
    offer = offered(one)
    for _ in range(FAULTS):
        await fault(offer)
    assert offer.breaker.state == OPEN


# The gate.


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.001)


async def test_the_time_in_line_counts_and_an_engine_that_is_never_called_is_not_ill() -> None:
    one, goes_on = Scripted("one", ("a", 0.2), (HANG,)), asyncio.Event()
    offer = offered(one, concurrency=1, timeouts=Timeouts(total=0.8))
    first = asyncio.create_task(answered(offer))
    await until(lambda: one.running == 1)
    begun = time.monotonic()
    assert isinstance(await fault(offer), EngineTimeout)
    assert (await first, time.monotonic() - begun < 5) == ("a", True)
    assert one.asks[1].model.timeouts.total < 0.7
    one.scripts.append(("a", goes_on))
    first = asyncio.create_task(answered(offer))
    await until(lambda: one.running == 1)
    assert "slot" in (await fault(offer)).message
    goes_on.set()
    assert (await first, len(one.asks)) == ("a", 3)


async def test_nobody_holds_two_slots_and_a_pause_between_tries_holds_none() -> None:
    one = Scripted("one", (busy(1.0),), ("a", 0.05), ("b",))
    offer = offered(one, concurrency=1)
    assert offer.gate is not None
    slow = asyncio.create_task(answered(offer))
    await until(lambda: len(one.asks) == 1 and one.running == 0)
    assert offer.gate.inside == 0
    assert await answered(offer, asker="bob") == "a"
    assert (await slow, offer.gate.inside, offer.gate.waiting) == ("b", 0, 0)


async def test_a_line_that_is_full_hands_over_at_once() -> None:
    one, two = Scripted("one", ("a", 0.05)), Scripted("two")
    offer = offered(one, two, concurrency=1)
    assert offer.gate is not None
    offer.gate._line = 0
    first = asyncio.create_task(answered(offer))
    await until(lambda: one.running == 1)
    assert await answered(offer) == "two"
    assert (await first, offer.breaker.state) == ("a", CLOSED)


async def test_who_waits_in_line_while_the_engine_falls_is_turned_away_without_a_call() -> None:
    goes_on = asyncio.Event()
    one = Scripted("one", (goes_on, EngineTimeout("slow")))
    offer = offered(one, concurrency=1)
    for _ in range(FAULTS - 1):
        offer.breaker.leave(False)
    tasks = [asyncio.create_task(answered(offer, asker=str(n))) for n in range(20)]
    assert offer.gate is not None
    gate = offer.gate
    await until(lambda: gate.waiting == 19)
    goes_on.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert Counter(isinstance(each, Unavailable) for each in done) == {True: 19, False: 1}
    assert (len(one.asks), offer.gate.inside, offer.gate.waiting) == (1, 0, 0)


# Leaving.


@pytest.mark.parametrize("where", ["in line", "before the first piece", "in a pause", "in mid-stream"])
@pytest.mark.parametrize("is_trial", [False, True])
async def test_who_leaves_takes_no_slot_and_no_trial_along(where: str, is_trial: bool) -> None:
    clock = [100.0]
    breaker = Breaker(lambda: clock[0])
    scripts: dict[str, Sequence[Step]] = {
        "in line": ("one",),
        "in a pause": (busy(1.5),),
        "in mid-stream": ("a", STUCK),
    }
    one = Scripted("one", scripts.get(where, (STUCK,)))
    offer = offered(one, concurrency=1, breaker=breaker)
    gate = offer.gate
    assert gate is not None
    if is_trial:
        for _ in range(FAULTS):
            breaker.leave(False)
        clock[0] += 3
    entered = await gate.enter("bob", 1) if where == "in line" else None
    pieces = 0

    async def listen() -> None:
        nonlocal pieces
        async for _ in stream(offer, Ask(offer.model, Parameters()), [], asker="ann"):
            pieces += 1

    task = asyncio.create_task(listen())
    came = {
        "in line": lambda: gate.waiting == 1,
        "before the first piece": lambda: one.running == 1,
        "in a pause": lambda: len(one.asks) == 1 and one.running == 0,
        "in mid-stream": lambda: pieces == 1,
    }
    await until(came[where])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if entered is not None:
        gate.leave(entered)
    assert (one.running, gate.inside, gate.waiting) == (0, 0, 0)
    assert breaker.wait() == 0
    assert breaker.state == (HALF_OPEN if is_trial and where != "in mid-stream" else CLOSED)
    assert await answered(offer) == "one"
    assert breaker.state == CLOSED


async def test_a_stream_that_is_closed_by_its_reader_has_ended_when_the_close_returns() -> None:
    one = Scripted("one", ("a", "b", "c"))
    offer, trail = offered(one, concurrency=1), list[Try]()
    async with aclosing(stream(offer, Ask(offer.model, Parameters()), trail)) as chunks:
        assert (await anext(chunks)).text == "a"
        assert offer.gate is not None and offer.gate.inside == 1
    assert (offer.gate.inside, one.running, trail[0].code) == (0, 0, None)
    assert trail[0].seconds > 0


SUMMARISER = """
[[model]]
name = "short"
engine = "echo"
id = "echo"
abilities = ["summary"]
concurrency = 1
"""


async def test_who_leaves_a_summary_leaves_the_slot_of_its_engine_in_the_same_moment(tmp_path: Path) -> None:
    rows = tmp_path / "rows.toml"
    rows.write_text(SUMMARISER)
    own = {"LOQUENT_MODELS": str(rows), "LOQUENT_SUMMARY_MODEL": "short"}
    async with opened(tmp_path, works=False, **own) as services:
        gate = services.models.offers["short"].gate
        text = "[slow 0.001] [words 500] word"
        wish = wanted(text, kind="summary", input={"text": text}, streamed=True)
        begun = await services.generations.begin(ANN, wish)
        async with aclosing(services.generations.stream(begun)) as chunks:  # type: ignore[type-var]
            await anext(chunks)
            assert gate is not None and gate.inside == 1
        assert gate.inside == 0
