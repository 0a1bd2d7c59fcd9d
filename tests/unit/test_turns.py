"""Turns of a session: what goes along, in which order, made anew, stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from built import ANN, opened
from chatting import FREE, PLAIN, begun, past, say, turns, until, with_recorder
from loquent.domain.clock import later, now
from loquent.domain.errors import (
    Conflict,
    ContextOverflow,
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    NotFound,
)
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation
from loquent.domain.models import Timeouts
from loquent.domain.requests import Parameters
from loquent.ports.engine import Ask
from loquent.ports.store import Page, Replace, Store
from loquent.services.history import Filters
from loquent.services.models import Offer
from loquent.services.sessions import Manner
from loquent.services.turns import COUNTED, Turns
from loquent.wiring import Services

pytestmark = pytest.mark.anyio


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
