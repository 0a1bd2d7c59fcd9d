"""Sessions, by the services alone: what goes along, in which order, what is kept, and what is whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import time_machine

from asking import kept
from built import ANN, ANN_ELSEWHERE, BOB, opened
from loquent.domain import sessions as domain
from loquent.domain.clock import later, now
from loquent.domain.errors import (
    Conflict,
    ContextOverflow,
    EngineFailed,
    EngineTimeout,
    Gone,
    Invalid,
    LoquentError,
    NotFound,
    Unavailable,
)
from loquent.domain.evolve import evolve
from loquent.domain.generations import Content, Generation, begin
from loquent.domain.models import Timeouts
from loquent.domain.principals import Principal
from loquent.domain.requests import Parameters
from loquent.domain.sessions import Session
from loquent.ports.engine import Ask, Chunk
from loquent.ports.store import Add, Page, Remove, Replace, Store
from loquent.services import limits
from loquent.services.generations import Filters, Key
from loquent.services.limits import Over
from loquent.services.models import Offer
from loquent.services.sessions import Manner, Turn
from loquent.services.turns import COUNTED, Turns
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

PAST = "2026-01-31T12:00Z"
FREE = {"LOQUENT_LIMIT_MESSAGES": "off", "LOQUENT_LIMIT_SESSIONS": "off", "LOQUENT_LIMIT_GENERATIONS": "off"}
PLAIN = Manner("api")


class Recorder:
    """An engine that remembers what it was asked, and answers as it is told to."""

    def __init__(self, say: Callable[[Ask], str | LoquentError]) -> None:
        self.asked: list[Ask] = []
        self._say = say

    @property
    def said(self) -> list[list[str]]:
        """The texts of the messages of each call."""
        return [[message.content for message in ask.messages] for ask in self.asked]

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port."""

    async def ready(self) -> None:
        """See the port."""

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port."""
        self.asked.append(ask)
        said = self._say(ask)
        if isinstance(said, LoquentError):
            raise said
        yield Chunk(said, "stop")


def with_recorder(
    services: Services, say: Callable[[Ask], str | LoquentError] | None = None, context: int | None = 1_000
) -> Recorder:
    """The echo model, answered for by a recorder: by default it says ``re: `` and the message."""
    recorder = Recorder(say or (lambda ask: f"re: {ask.messages[-1].content}"))
    offer = services.models.offers["echo"]
    changed = {**services.models.offers, "echo": Offer(replace(offer.model, context=context), recorder)}
    services.models.offers = changed
    return recorder


async def begun(services: Services, who: Principal = ANN, **more: str) -> str:
    """The id of a new session."""
    session, _ = await services.sessions.create(who, surface="api", **more)  # type: ignore[arg-type]
    return session.id


async def say(services: Services, id: str, message: str, who: Principal = ANN, manner: Manner = PLAIN) -> Turn:
    """A message and its answer."""
    taken = await services.sessions.send(who, id, message, manner)
    return (await services.generations.collect(taken)).now()


async def turns(services: Services, id: str, who: Principal = ANN) -> list[Turn]:
    return (await services.sessions.turns(who, id, limit=100)).items


async def past(services: Services, id: str, texts: list[tuple[str, str]], who: Principal = ANN) -> None:
    """Turns that were said before, straight into the store."""
    for message, answer in texts:
        [session] = await services.store.get(Session, id)
        spoken = evolve(session, turns=session.turns + 1)
        made = begin(
            who,
            kind="chat",
            surface="api",
            mode="foreground",
            model="echo",
            parameters={},
            text=message,
            due_at=None,
            session=id,
            turn=spoken.turns,
        )
        over = evolve(made, status="completed", due_at=None, output_characters=len(answer), completed_at=now())
        content = Content(made.id, 0, who.tenant, who.owner, {"message": message}, answer)
        await services.store.write(Add(over), Add(content), Replace(session, spoken))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


# What goes along


async def test_each_answer_takes_the_earlier_messages_into_account(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        recorder = with_recorder(services)
        id = await begun(services, instructions="Be short.")
        for message in ("one", "two", "three"):
            generation, content = await say(services, id, message)
            assert (content.input, content.output) == ({"message": message}, f"re: {message}")
            assert (generation.kind, generation.surface, generation.status) == ("chat", "api", "completed")
            assert generation.turns_left_out == 0
        assert recorder.said == [
            ["Be short.", "one"],
            ["Be short.", "one", "re: one", "two"],
            ["Be short.", "one", "re: one", "two", "re: two", "three"],
        ]
        assert [each.role for each in recorder.asked[2].messages] == ["system", *["user", "assistant"] * 2, "user"]
        assert [(each.turn, each.session) for each, _ in await turns(services, id)] == [(n, id) for n in (1, 2, 3)]
        session = await services.sessions.get(ANN, id)
        assert (session.turns, session.title) == (3, "one")
        assert (await services.generations.page(ANN, Filters(kind="chat"), limit=10)).items[0].session == id


async def test_the_model_the_parameters_and_the_usage_are_as_everywhere(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        recorder = with_recorder(services)
        id = await begun(services, instructions="x" * 400)
        asked = Parameters(max_tokens=7, temperature=0.5, stop=("end",))
        generation, _ = await say(services, id, "one", manner=Manner("api", parameters=asked))
        assert recorder.asked[0].parameters == asked
        assert generation.parameters == {"max_tokens": 7, "temperature": 0.5, "stop": ("end",)}
        assert generation.usage_estimated
        assert generation.prompt_tokens is not None
        assert generation.prompt_tokens > 100, "what goes along is paid for, not the message alone"
        for model, error in (("nobody", NotFound), ("prompt-only", Invalid)):
            with pytest.raises(error):
                await begun(services, model=model)
            with pytest.raises(error):
                await say(services, id, "two", manner=Manner("api", model=model))
        assert (await services.sessions.get(ANN, id)).turns == 1


@pytest.mark.parametrize("number", [1, 15, 16, 17, 40, 200])
async def test_the_history_is_what_fits_and_the_rest_is_counted(tmp_path: Path, number: int) -> None:
    async with opened(tmp_path, **FREE) as services:
        recorder = with_recorder(services)
        id = await begun(services)
        texts = [(f"message {n:03}", f"answer {n:03} " + "x" * 60) for n in range(1, number + 1)]
        await past(services, id, texts)
        generation, _ = await say(services, id, "now")
        *history, message = recorder.said[0]
        assert message == "now"
        assert len(history) % 2 == 0, "never cut in the middle of a turn"
        sent = [(history[at], history[at + 1]) for at in range(0, len(history), 2)]
        assert sent == texts[number - len(sent) :], "the latest ones, without a gap, in their order"
        assert generation.turns_left_out == number - len(sent)
        fits = (750 / 1.1 - 5) // (3 + 4 + 18 + 4)
        assert len(sent) == min(number, fits)


class Counting:
    """A store that remembers what was read of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = 0
        self.most_counted = 0

    async def get(self, kind: type[Any], *ids: str) -> list[Any]:
        """See Store."""
        found = await self._store.get(kind, *ids)
        self.read += len(found)
        return found

    async def page(self, kind: type[Any], order: str, at: Any, **how: Any) -> Page[Any]:
        """See Store."""
        found = await self._store.page(kind, order, at, **how)
        self.read += len(found.items)
        return found

    async def count(self, kind: type[Any], order: str, at: Any, **how: Any) -> int:
        """See Store."""
        found = await self._store.count(kind, order, at, **how)
        self.most_counted = max(self.most_counted, found)
        return found


async def test_a_long_session_costs_no_more_than_a_short_one(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        recorder = with_recorder(services)
        stores = []
        for number in (60, 1_500):
            id = await begun(services)
            await past(services, id, [(f"message {n}", "x" * 100) for n in range(number)])
            taken = await services.sessions.send(ANN, id, "now", PLAIN)
            assert taken.live is not None
            stores.append(Counting(services.store))
            async for _ in Turns(stores[-1], lambda _: None).answer(taken.live):  # type: ignore[arg-type]
                pass
            sent = len(recorder.said[-1]) // 2
            assert 0 < sent < 30
            assert taken.live.turns_left_out == number - sent
        assert stores[0].read == stores[1].read, "as many records are read"
        assert stores[1].most_counted == COUNTED < 1_500, "and no list is counted to its end"


async def test_a_turn_that_was_erased_is_not_counted_as_left_out(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        recorder = with_recorder(services)
        id = await begun(services)
        await past(services, id, [(f"message {n}", "x" * 200) for n in range(1, 61)])
        known = await turns(services, id)
        for erased in (0, 5, 58):
            await services.generations.remove(ANN, known[erased][0].id)
        generation, _ = await say(services, id, "now")
        assert "message 59" not in recorder.said[0]
        assert generation.turns_left_out == 57 - len(recorder.said[0]) // 2


async def test_a_long_message_leaves_no_room_and_is_asked_alone(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        recorder = with_recorder(services)
        id = await begun(services)
        await say(services, id, "one")
        generation, _ = await say(services, id, "word " * 700)
        assert (len(recorder.said[1]), generation.turns_left_out) == (1, 1)
        await say(services, id, "x", manner=Manner("api", parameters=Parameters(max_tokens=990)))
        assert recorder.said[2] == ["x"], "an answer as long as the context leaves no room either"


async def test_where_the_engine_says_that_it_is_too_much_the_older_half_is_dropped(tmp_path: Path) -> None:
    def most(number: int) -> Callable[[Ask], str | LoquentError]:
        return lambda ask: ContextOverflow("too much") if len(ask.messages) > number else "fine"

    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        await past(services, id, [(f"message {n}", "answer") for n in range(7)])
        recorder = with_recorder(services, most(3))
        generation, content = await say(services, id, "now")
        assert [len(said) for said in recorder.said] == [15, 7, 3]
        assert recorder.said[-1] == ["message 6", "answer", "now"]
        assert (content.output, generation.turns_left_out) == ("fine", 6)
        recorder = with_recorder(services, most(0))
        with pytest.raises(ContextOverflow):
            await say(services, id, "again")
        assert [len(said) for said in recorder.said] == [17, 9, 5, 3, 1]
        [*_, (failed, _)] = await turns(services, id)
        assert (failed.status, failed.error_code, failed.turns_left_out) == (
            "failed",
            "context_length_exceeded",
            8,
        )


async def test_a_cut_answer_goes_along_and_one_that_never_came_does_not(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        with pytest.raises(EngineFailed):
            await say(services, id, "[cut 2] one two three")
        with pytest.raises(EngineFailed):
            await say(services, id, "[fail] lost")
        recorder = with_recorder(services)
        generation, _ = await say(services, id, "now")
        assert recorder.said[0] == ["[cut 2] one two three", "one two", "now"]
        assert generation.turns_left_out == 1


# In order


async def test_two_messages_at_once_are_taken_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        both = [asyncio.create_task(say(services, id, f"[slow 0.02] {word} b c")) for word in ("first", "second")]
        done = await asyncio.gather(*both)
        assert sorted(each.turn or 0 for each, _ in done) == [1, 2]
        (first, _), (second, _) = sorted(done, key=lambda each: each[0].turn or 0)
        assert (first.completed_at or 0) <= (second.completed_at or 0)
        assert second.prompt_tokens == 5 + 3 + 5, "the second is asked with the whole of the first"


async def test_of_many_at_once_each_sees_all_before_it(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        recorder = with_recorder(services, context=100_000)
        id = await begun(services)
        await asyncio.gather(*(say(services, id, f"message {n}") for n in range(30)))
        assert [len(said) for said in recorder.said] == [2 * n + 1 for n in range(30)]
        last = recorder.said[-1]
        assert [each.removeprefix("re: ") for each in last[1::2]] == last[0:-1:2]
        assert [each.turn for each, _ in await turns(services, id)] == list(range(1, 31))


@asynccontextmanager
async def two_servers(folder: Path) -> AsyncIterator[tuple[Services, Services]]:
    """Two servers over one store."""
    shared = {**FREE, "LOQUENT_STORE": f"sqlite:///{folder / 'shared.db'}"}
    async with opened(folder, **shared) as one, opened(folder, works=False, **shared) as other:
        yield one, other


async def test_two_servers_keep_the_order_too(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (one, other):
        id = await begun(one)
        first = asyncio.create_task(say(one, id, "[slow 0.1] a b c"))
        await until(lambda: bool(one.runner.lives))
        second, _ = await say(other, id, "d")
        assert first.done()
        assert (await first)[0].turn == 1
        assert (second.turn, second.prompt_tokens) == (2, 5 + 3 + 1)


async def test_messages_to_two_servers_at_once_each_have_a_number(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as servers:
        id = await begun(servers[0])
        await asyncio.gather(*(say(servers[n % 2], id, f"message {n}") for n in range(8)))
        found = await turns(servers[0], id)
        assert [each.turn for each, _ in found] == list(range(1, 9))
        assert [each.prompt_tokens for each, _ in found] == [2 + 4 * n for n in range(8)]


async def test_a_turn_of_a_server_that_died_is_waited_for_until_it_is_settled(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        taken = await services.sessions.send(ANN, id, "lost", PLAIN)  # and never run: its server is no more
        waiting = asyncio.create_task(say(services, id, "now"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        [dead] = await services.store.get(Generation, taken.generation.id)
        await services.store.write(Replace(dead, evolve(dead, due_at=now())))  # its lease runs out
        async with asyncio.timeout(10):
            generation, _ = await waiting
        assert (generation.turn, generation.turns_left_out) == (2, 1)
        assert [each.status for each, _ in await turns(services, id)] == ["failed", "completed"]


async def test_one_that_waits_can_be_left_and_the_next_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        first = asyncio.create_task(say(services, id, "[slow 0.01] [words 5000] a"))
        await until(lambda: len(services.runner.lives) == 1)
        second = asyncio.create_task(say(services, id, "b"))
        await until(lambda: len(services.runner.lives) == 2)
        third = asyncio.create_task(say(services, id, "c"))
        await until(lambda: len(services.runner.lives) == 3)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert not third.done(), "the first goes on: it is waited for, though the one between has gone"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        _, content = await third
        assert content.output == "c"
        found = await turns(services, id)
        assert [(each.status, each.finish_reason) for each, _ in found][:2] == [("cancelled", "cancelled")] * 2
        assert (found[0][1].output[:3], found[1][1].output) == ("a a", "")
        assert found[2][0].turns_left_out == 1


async def test_who_waits_longer_than_the_model_may_take_is_told_so(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        await services.sessions.send(ANN, id, "never run", PLAIN)
        offer = services.models.offers["echo"]
        quick = Offer(replace(offer.model, timeouts=Timeouts(0.05)), offer.engine)
        services.models.offers = {**services.models.offers, "echo": quick}
        with pytest.raises(EngineTimeout):
            await say(services, id, "now")


async def test_a_job_that_has_to_wait_keeps_no_slot(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, **{**FREE, "LOQUENT_JOB_SLOTS": "1"}) as services:
        recorder = with_recorder(services)
        id = await begun(services)
        jobs = [await services.sessions.send(ANN, id, word, PLAIN, background=True) for word in ("a", "b")]
        first = jobs[0].generation
        await services.store.write(Replace(first, evolve(first, due_at=later(now(), 0.3))))  # the second is due first
        await services.worker.open(alone=False)
        async with asyncio.timeout(20):
            async for event in services.generations.follow(ANN, jobs[1].generation.id):
                ended = event.generation
        assert recorder.said == [["a"], ["a", "re: a", "b"]]
        assert ended is not None
        assert (ended.status, ended.attempts) == ("completed", 1)


# Expiry and limits


def test_thirty_quiet_minutes_expire_a_session_exactly() -> None:
    with time_machine.travel(PAST, tick=False) as clock:
        session = domain.begin(ANN, surface="api")
        clock.shift(29 * 60 + 59)
        spoken = domain.spoken_in(session, 30, "hello")
        clock.shift(30 * 60 - 0.000_001)
        assert not domain.is_expired(spoken, 30, now())
        clock.shift(0.000_001)
        with pytest.raises(Gone, match="30 minutes"):
            domain.spoken_in(spoken, 30, "hello")
        with pytest.raises(Gone):
            domain.asked_again(spoken, 30)
        clock.shift(-3600)
        assert domain.spoken_in(spoken, 30).last_active_at == spoken.last_active_at, "a clock set back takes nothing"
        with pytest.raises(Gone):
            domain.spoken_in(domain.closed(spoken), 30)


async def test_what_is_refused_leaves_the_session_as_it_was(tmp_path: Path) -> None:
    two = {**FREE, "LOQUENT_LIMIT_MESSAGES": "2/minute"}
    async with opened(tmp_path, **two) as services:
        with time_machine.travel(PAST, tick=False) as clock:  # in the future, ids would be made that outlive the test
            id = await begun(services)
            clock.shift(60)
            await say(services, id, "one")
            await say(services, id, "two")
            before = await services.sessions.get(ANN, id)
            clock.shift(10)
            with pytest.raises(Over) as refused:
                await say(services, id, "three")
            assert refused.value.retry_after == 50
            for message in ("", " \n\t"):
                with pytest.raises(Invalid):
                    await say(services, id, message)
            assert await services.sessions.get(ANN, id) == before
            clock.shift(50)
            await say(services, id, "three")
            clock.shift(30 * 60)
            with pytest.raises(Gone):
                await say(services, id, "four")
            assert (await services.sessions.get(ANN, id)).turns == 3


async def test_what_the_owners_limit_refuses_does_not_count_in_the_session(tmp_path: Path) -> None:
    few = {**FREE, "LOQUENT_LIMIT_MESSAGES": "5/minute", "LOQUENT_LIMIT_GENERATIONS": "1/minute"}
    async with opened(tmp_path, **few) as services:
        id = await begun(services)
        taken = await services.sessions.send(ANN, id, "one", PLAIN)
        assert taken.limit is not None
        assert (taken.limit.rate.count, taken.limit.remaining) == (1, 0), "the tightest is told"
        await services.generations.collect(taken)
        for _ in range(10):
            with pytest.raises(Over, match="generations"):
                await say(services, id, "two")
        state = await services.limits.limiter.peek(f"{limits.MESSAGES}:{id}", services.limits.rules[limits.MESSAGES])
        assert state.remaining == 4
        assert (await services.sessions.get(ANN, id)).turns == 1


async def test_of_many_at_once_exactly_as_many_are_counted_as_are_taken(tmp_path: Path) -> None:
    some = {**FREE, "LOQUENT_LIMIT_MESSAGES": "5/minute", "LOQUENT_LIMIT_GENERATIONS": "60/minute"}
    async with opened(tmp_path, **some) as services:
        id = await begun(services)
        done = await asyncio.gather(*(say(services, id, str(n)) for n in range(20)), return_exceptions=True)
        assert sum(isinstance(each, Over) for each in done) == 15
        for rule, whom, left in ((limits.MESSAGES, id, 0), (limits.GENERATIONS, "default/usr_ann", 55)):
            state = await services.limits.limiter.peek(f"{rule}:{whom}", services.limits.rules[rule])
            assert state.remaining == left, rule
        assert len(await turns(services, id)) == 5


async def test_a_repeat_is_no_message(tmp_path: Path) -> None:
    async with opened(tmp_path, **{**FREE, "LOQUENT_LIMIT_MESSAGES": "2/minute"}) as services:
        id = await begun(services)
        manner = Manner("api", key=Key(f"POST /api/v1/sessions/{id}/turns", "once", b"body"))
        first, _ = await say(services, id, "one", manner=manner)
        for _ in range(5):
            again = await services.sessions.send(ANN, id, "one", manner)
            assert (again.replayed, again.generation.id) == (True, first.id)
        await say(services, id, "two")
        assert len(await turns(services, id)) == 2


async def test_of_two_jobs_at_once_with_one_key_one_counts(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, **{**FREE, "LOQUENT_LIMIT_MESSAGES": "5/minute"}) as services:
        id = await begun(services)
        manner = Manner("api", key=Key(f"POST /api/v1/sessions/{id}/turns", "once", b"body"))
        both = [services.sessions.send(ANN, id, "one", manner, background=True) for _ in range(2)]
        taken = await asyncio.gather(*both)
        assert sorted(each.replayed for each in taken) == [False, True]
        assert len({each.generation.id for each in taken}) == 1
        state = await services.limits.limiter.peek(f"{limits.MESSAGES}:{id}", services.limits.rules[limits.MESSAGES])
        assert state.remaining == 4


async def test_an_answer_made_anew_keeps_the_session_open_as_a_message_does(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        with time_machine.travel(PAST, tick=False) as clock:
            id = await begun(services)
            await say(services, id, "one")
            for _ in range(2):
                clock.shift(30 * 60 - 1)
                await services.generations.collect(await services.sessions.regenerate(ANN, id, PLAIN))
            clock.shift(30 * 60 - 1)
            await say(services, id, "two")
        assert (await services.sessions.get(ANN, id)).turns == 2


async def test_as_many_sessions_as_the_limit_says(tmp_path: Path) -> None:
    async with opened(tmp_path, **{**FREE, "LOQUENT_LIMIT_SESSIONS": "2/minute"}) as services:
        for _ in range(2):
            await begun(services)
        with pytest.raises(Over):
            await begun(services)
        await begun(services, BOB)
        assert (await kept(services))["sessions"] == 3


# Made anew, stopped


async def test_the_last_answer_made_anew_takes_the_place_of_the_old(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        counter = iter(range(100))
        recorder = with_recorder(services, lambda _: f"answer {next(counter)}")
        id = await begun(services)
        await say(services, id, "one")
        old, _ = await say(services, id, "two", manner=Manner("api", parameters=Parameters(seed=1, max_tokens=9)))
        manner = Manner("api", parameters=Parameters(seed=2))
        taken = await services.sessions.regenerate(ANN, id, manner)
        new, content = (await services.generations.collect(taken)).now()
        assert (new.turn, content.input, content.output) == (2, {"message": "two"}, "answer 2")
        assert recorder.said[2] == ["one", "answer 0", "two"], "the old answer does not go along"
        assert new.parameters == {"seed": 2, "max_tokens": 9}
        assert [each.id for each, _ in await turns(services, id)][1:] == [new.id]
        known, texts = await services.generations.get(ANN, old.id)
        assert (known.session, known.turn, texts.output) == (id, None, "answer 1"), "it stays in the history"
        await say(services, id, "three")
        assert recorder.said[3] == ["one", "answer 0", "two", "answer 2", "three"]
        session = await services.sessions.get(ANN, id)
        assert session.turns == 3


async def test_there_has_to_be_an_answer_to_make_anew(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        with pytest.raises(Conflict):
            await services.sessions.regenerate(ANN, id, PLAIN)
        running = asyncio.create_task(say(services, id, "[slow 0.01] [words 5000] a"))
        await until(lambda: bool(services.runner.lives))
        with pytest.raises(Conflict):
            await services.sessions.regenerate(ANN, id, PLAIN)
        [(stopped, _)] = await services.sessions.stop(ANN, id)
        await running
        taken = await services.sessions.regenerate(ANN, id, Manner("api", parameters=Parameters(max_tokens=1)))
        new, content = (await services.generations.collect(taken)).now()
        assert (new.turn, content.output) == (1, "a"), "one that was stopped can be made anew"
        assert stopped.id != new.id


async def test_making_anew_at_once_makes_one_answer(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        await say(services, id, "[slow 0.01] a b")
        tries = [services.sessions.regenerate(ANN, id, PLAIN) for _ in range(5)]
        done = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(each, Conflict) for each in done) == 4
        assert [each.turn for each, _ in await turns(services, id)] == [1]


async def test_a_stop_ends_what_runs_and_what_waits(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        tasks = [asyncio.create_task(say(services, id, "[slow 0.01] [words 5000] a")) for _ in range(3)]
        await until(
            lambda: len(services.runner.lives) == 3 and any(each.text for each in services.runner.lives.values())
        )
        stopped = await services.sessions.stop(ANN, id)
        assert [(each.turn, each.status) for each, _ in stopped] == [(n, "cancelled") for n in (1, 2, 3)]
        assert [bool(content.output) for _, content in stopped] == [True, False, False]
        await asyncio.gather(*tasks)
        assert await services.sessions.stop(ANN, id) == []


# Looked through, renamed, erased; and whose it is


async def test_turns_are_paged_by_number_both_ways(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        await past(services, id, [(str(n), "x") for n in range(1, 8)])
        for newest_first, expected in ((False, list(range(1, 8))), (True, list(range(7, 0, -1)))):
            seen: list[int | None] = []
            after, more = None, True
            while more:
                page = await services.sessions.turns(ANN, id, limit=3, after=after, newest_first=newest_first)
                seen += [each.turn for each, _ in page.items]
                after, more = page.items[-1][0].id, page.more
            assert seen == expected
        other = await begun(services)
        for after in ("gen_" + "0" * 32, (await say(services, other, "x"))[0].id):
            with pytest.raises(Invalid):
                await services.sessions.turns(ANN, id, limit=3, after=after)


async def test_sessions_are_listed_the_latest_first(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        made = [await begun(services) for _ in range(5)]
        await begun(services, BOB)
        await say(services, made[1], "hello")
        expected = [made[1], made[4], made[3], made[2], made[0]]
        seen: list[str] = []
        for _ in range(3):
            page = await services.sessions.page(ANN, limit=2, after=seen[-1] if seen else None)
            seen += [each.id for each in page.items]
        assert (seen, page.more) == (expected, False)
        with pytest.raises(Invalid):
            await services.sessions.page(ANN, limit=2, after="ses_" + "0" * 32)


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("  Hello,\n\tthere ", "Hello, there"),
        ("word " * 40, ("word " * 12)[:-1] + "…"),
        ("x" * 100, "x" * 59 + "…"),
        ("y" * 60, "y" * 60),
    ],
)
def test_a_session_is_called_by_how_its_first_message_begins(message: str, title: str) -> None:
    spoken = domain.spoken_in(domain.begin(ANN, surface="api"), 30, message)
    assert (spoken.title, len(title) <= 61) == (title, True)
    assert domain.spoken_in(spoken, 30, "another").title == title


async def test_a_title_that_was_given_stays(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services, title=" Boats ")
        await say(services, id, "hello")
        assert (await services.sessions.get(ANN, id)).title == "Boats"
        assert (await services.sessions.rename(ANN, id, " Ships")).title == "Ships"
        for bad in ("", "  ", "x" * 201):
            with pytest.raises(Invalid):
                await services.sessions.rename(ANN, id, bad)


async def test_erasing_a_session_leaves_nothing_of_it_and_all_else(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        other = await begun(services)
        await say(services, other, "stays")
        await say(services, await begun(services, BOB), "stays", BOB)
        before = await kept(services)
        id = await begun(services)
        for n in range(25):
            generation, _ = await say(services, id, str(n))
            await services.feedbacks.on_generation(ANN, generation.id, surface="api", thumb="up")
        again = await services.sessions.regenerate(ANN, id, PLAIN)
        await services.generations.collect(again)
        for _ in range(30):
            await services.feedbacks.on_session(ANN, id, surface="api", comment="nice")
        await services.sessions.remove(ANN, id)
        after = await kept(services)
        assert {name: after[name] for name in after if name != "usage_days"} == {
            name: before[name] for name in before if name != "usage_days"
        }
        with pytest.raises(NotFound):
            await services.sessions.get(ANN, id)
        assert len(await turns(services, other)) == 1


async def test_a_session_is_not_erased_under_an_answer_that_is_being_made(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        running = asyncio.create_task(say(services, id, "[slow 0.01] [words 5000] a"))
        await until(lambda: bool(services.runner.lives))
        with pytest.raises(Conflict):
            await services.sessions.remove(ANN, id)
        await services.sessions.stop(ANN, id)
        await running
        await services.sessions.remove(ANN, id)
        assert (await kept(services))["generations"] == 0


async def test_erasing_while_messages_come_is_all_or_a_refusal(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        for _ in range(20):
            id = await begun(services)
            await say(services, id, "one")
            said, gone = await asyncio.gather(
                say(services, id, "two"), services.sessions.remove(ANN, id), return_exceptions=True
            )
            if gone is None:
                assert isinstance(said, LoquentError), "what was said has not vanished with an answer of 200"
                with pytest.raises(NotFound):
                    await services.sessions.get(ANN, id)
            else:
                assert isinstance(gone, Conflict)
                assert len(await turns(services, id)) == 2
                await services.sessions.remove(ANN, id)
        assert (await kept(services))["generations"] == (await kept(services))["contents"] == 0


@pytest.mark.parametrize("who", [BOB, ANN_ELSEWHERE, Principal("default", "anon_1", "anonymous", is_anonymous=True)])
async def test_anothers_session_is_not_there_whatever_one_does(tmp_path: Path, who: Principal) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        await say(services, id, "mine")
        ours = services.sessions
        for attempt in (
            ours.get(who, id),
            ours.speaker(who, id),
            ours.rename(who, id, "theirs"),
            ours.turns(who, id, limit=10),
            ours.send(who, id, "hello", PLAIN),
            ours.regenerate(who, id, PLAIN),
            ours.stop(who, id),
            ours.remove(who, id),
        ):
            with pytest.raises(NotFound):
                await attempt
        assert (await ours.page(who, limit=10)).items == []
        assert [content.input["message"] for _, content in await turns(services, id)] == ["mine"]


async def test_the_id_alone_opens_what_was_begun_without_a_login(tmp_path: Path) -> None:
    anonymous = Principal("default", "anon_1", "anonymous", is_anonymous=True)
    async with opened(tmp_path, **FREE) as services:
        session, _ = await services.sessions.create(anonymous, surface="chat", is_held=True)
        assert session.owner == session.id
        for who in (anonymous, ANN, BOB):
            speaker = await services.sessions.speaker(who, session.id)
            assert speaker == domain.holder(session.id)
        with pytest.raises(NotFound):
            await services.sessions.speaker(ANN, "ses_" + "0" * 32)
        await say(services, session.id, "hello", domain.holder(session.id))
        assert (await services.sessions.page(anonymous, limit=10)).items == []


async def test_a_message_whose_session_is_gone_all_the_same_fails_and_says_why(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        taken = await services.sessions.send(ANN, id, "one", PLAIN)
        with pytest.raises(Conflict):
            await services.sessions.remove(ANN, id)
        await services.store.write(*map(Remove, await services.store.get(Session, id)))
        with pytest.raises(NotFound):
            await services.generations.collect(taken)
        [failed] = await services.store.get(Generation, taken.generation.id)
        assert (failed.status, failed.error_message) == ("failed", "the session has been removed")


async def test_a_store_that_is_away_takes_no_message(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as services:
        id = await begun(services)
        await services.store.close()
        with pytest.raises(Unavailable):
            await services.sessions.send(ANN, id, "hello", PLAIN)
        await services.store.open()
