"""Generations, by the services alone: asked at once, as a stream, as a job; kept, found, and one's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import time_machine

from built import ANN, ANN_ELSEWHERE, BOB, opened, wanted
from loquent.domain import ids
from loquent.domain.clock import later, now
from loquent.domain.errors import (
    Conflict,
    EngineFailed,
    Invalid,
    Mismatch,
    NotFound,
    StillRunning,
    Unavailable,
)
from loquent.domain.evolve import evolve
from loquent.domain.generations import COMPLETED, Content, Generation, Outcome, claimed, extended, finished
from loquent.domain.idempotency import Repeat
from loquent.domain.requests import Parameters
from loquent.domain.usage import UsageDay, usage_day
from loquent.ports.engine import Chunk
from loquent.ports.store import Replace
from loquent.services import live
from loquent.services.generations import Event
from loquent.services.history import Filters
from loquent.services.limits import Over
from loquent.services.wanted import Key
from loquent.wiring import Services

pytestmark = pytest.mark.anyio


async def run(services: Services, prompt: str, who=ANN, **more) -> tuple[Generation, Content]:
    begun = await services.generations.begin(who, wanted(prompt, **more))
    await services.generations.collect(begun)
    return begun.now()


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.005)


async def over(services: Services, id: str, who=ANN) -> tuple[Generation, Content]:
    """The job once it has ended."""
    async for event in services.generations.follow(who, id):
        if event.kind == "done":
            assert event.generation is not None and event.content is not None
            return event.generation, event.content
    raise AssertionError("it has no end")


async def test_what_was_asked_answered_and_used_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made, _ = await run(services, "one two three", parameters=Parameters(max_tokens=2, temperature=0.5))
        kept, texts = await services.generations.get(ANN, made.id)
    assert (kept.status, kept.finish_reason, texts.output) == ("completed", "length", "one two")
    assert texts.input == {"prompt": "one two three"}
    assert kept.parameters == {"max_tokens": 2, "temperature": 0.5}
    assert (kept.prompt_tokens, kept.completion_tokens, kept.usage_estimated) == (3, 2, False)
    assert kept.cost == 9  # 3 x 1.5 + 2 x 2 millionths, rounded up
    assert kept.created_at <= kept.started_at <= kept.completed_at
    assert (kept.due_at, kept.lease_by) == (None, None)


async def test_a_stream_is_the_same_generation_and_is_on_the_record_before_it_ends(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("one two three", streamed=True))
        texts = [chunk.text async for chunk in services.generations.stream(begun)]
        kept, content = await services.generations.get(ANN, begun.generation.id)
    assert "".join(texts) == content.output == "one two three"
    assert len([text for text in texts if text]) == 3
    assert kept.status == "completed"


async def test_a_job_is_durable_when_accepted_and_runs_to_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("one two"))
        accepted, _ = await services.generations.get(ANN, begun.generation.id)
        ended, content = await over(services, begun.generation.id)
    assert (begun.generation.status, accepted.mode) == ("pending", "background")
    assert (ended.status, content.output, ended.attempts, ended.fence) == ("completed", "one two", 1, 1)


async def test_usage_of_a_day_adds_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for _ in range(3):
            await run(services, "one two")
        [day] = await services.store.get(UsageDay, usage_day("default", "usr_ann", "echo", now()).id)
    assert (day.generations, day.prompt_tokens, day.completion_tokens, day.cost) == (3, 6, 6, 21)


@pytest.mark.parametrize("who", [BOB, ANN_ELSEWHERE])
async def test_anothers_is_not_found_whatever_one_does(tmp_path: Path, who) -> None:
    async with opened(tmp_path) as services:
        made, _ = await run(services, "mine")
        for attempt in (services.generations.get, services.generations.cancel, services.generations.remove):
            with pytest.raises(NotFound):
                await attempt(who, made.id)
        with pytest.raises(NotFound):
            await anext(services.generations.follow(who, made.id))
        assert (await services.generations.page(who, Filters(), limit=10)).items == []
        assert await services.generations.numbered(who, Filters(kind="text"), page=1, per_page=10) == ([], 0)
        assert (await services.generations.get(ANN, made.id))[0].status == "completed"


async def test_a_running_one_of_anothers_cannot_be_cancelled_or_followed(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[hang] x"))
        await until(lambda: begun.generation.id in services.runner.lives)
        with pytest.raises(NotFound):
            await services.generations.cancel(BOB, begun.generation.id)
        with pytest.raises(NotFound):
            await anext(services.generations.follow(BOB, begun.generation.id))
        assert (await services.generations.get(ANN, begun.generation.id))[0].status == "processing"
        await services.generations.cancel(ANN, begun.generation.id)


async def test_a_fault_is_on_the_record_and_raised_and_the_slot_is_free(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("[cut 2] one two three", streamed=True))
        with pytest.raises(EngineFailed):
            async for _ in services.generations.stream(begun):
                pass
        kept, content = await services.generations.get(ANN, begun.generation.id)
        assert not services.runner.lives
    assert (kept.status, kept.error_code, content.output) == ("failed", "engine_failed", "one two")
    assert kept.usage_estimated and kept.completion_tokens == 2


async def test_hanging_up_keeps_what_there_is_and_frees_the_engine(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("[slow 0.001] [words 5000] word", streamed=True))
        async with aclosing(services.generations.stream(begun)) as chunks:  # type: ignore[type-var]
            async for _ in chunks:
                if begun.live and begun.live.text:
                    break
        assert not services.runner.lives
        kept, content = await services.generations.get(ANN, begun.generation.id)
    assert (kept.status, kept.finish_reason) == ("cancelled", "cancelled")
    assert content.output.startswith("word")


async def test_a_caller_that_is_cancelled_while_it_waits_leaves_a_cancelled_record(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("[hang] x"))
        task = asyncio.create_task(services.generations.collect(begun))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while services.runner.lives:
            await asyncio.sleep(0.01)
        kept, _ = await services.generations.get(ANN, begun.generation.id)
    assert kept.status == "cancelled"


async def test_cancelling_by_id_ends_a_stream_without_an_error(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("[slow 0.01] [words 5000] word", streamed=True))

        async def read() -> int:
            return len([chunk async for chunk in services.generations.stream(begun)])

        reading = asyncio.create_task(read())
        await until(lambda: begun.live is not None and bool(begun.live.text))
        kept, content = await services.generations.cancel(ANN, begun.generation.id)
        assert 0 < await reading < 5000
    assert (kept.status, kept.finish_reason) == ("cancelled", "cancelled")
    assert content.output.startswith("word")


async def test_cancelling_a_job_works_before_while_and_after_it_runs(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        begun = await services.generations.submit(ANN, wanted("never run"))
        waiting, _ = await services.generations.cancel(ANN, begun.generation.id)
        assert (waiting.status, waiting.attempts, waiting.due_at) == ("cancelled", 0, None)
        await services.worker.open(alone=False)
        begun = await services.generations.submit(ANN, wanted("[slow 0.01] [words 5000] word"))
        while begun.generation.id not in services.runner.lives:
            await asyncio.sleep(0.01)
        running, _ = await services.generations.cancel(ANN, begun.generation.id)
        assert running.status == "cancelled"
        done, _ = await run(services, "done")
        assert (await services.generations.cancel(ANN, done.id))[0].status == "completed"


async def test_what_runs_for_longer_is_on_the_record_with_its_text_so_far(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("[slow 0.01] [words 5000] word", streamed=True))
        reading = asyncio.create_task(services.generations.collect(begun))
        async with asyncio.timeout(10):
            while True:
                found = await services.store.get(Content, begun.generation.id)
                if found and found[0].output:
                    break
                await asyncio.sleep(0.02)
        running, content = await services.generations.get(ANN, begun.generation.id)
        assert running.status == "processing"
        assert content.output.startswith("word word")
        await services.generations.cancel(ANN, begun.generation.id)
        await reading


async def test_only_what_is_over_can_be_removed_and_then_it_is_gone_with_its_texts(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        begun = await services.generations.submit(ANN, wanted("x"))
        with pytest.raises(Conflict):
            await services.generations.remove(ANN, begun.generation.id)
        await services.generations.cancel(ANN, begun.generation.id)
        await services.generations.remove(ANN, begun.generation.id)
        with pytest.raises(NotFound):
            await services.generations.get(ANN, begun.generation.id)
        assert await services.store.get(Content, begun.generation.id) == []


async def test_lists_are_newest_first_and_walk_through_all_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = [(await run(services, f"number {number}"))[0].id for number in range(7)]
        seen: list[str] = []
        after = None
        while True:
            page = await services.generations.page(ANN, Filters(), limit=3, after=after)
            seen += [record.id for record in page.items]
            if not page.more:
                break
            after = page.items[-1].id
    assert seen == made[::-1]


async def test_lists_are_narrowed_by_every_filter_alone_and_together(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        done, _ = await run(services, "fine")
        with pytest.raises(EngineFailed):
            await run(services, "[fail] x")
        chat, _ = await run(services, "hi", kind="chat", input={"messages": [{"role": "user", "content": "hi"}]})
        between = now()
        other, _ = await run(services, "other", model="prompt-only")

        async def ids_of(**filters: object) -> list[str]:
            page = await services.generations.page(ANN, Filters(**filters), limit=2)  # type: ignore[arg-type]
            return [record.id for record in page.items]

        assert await ids_of(kind="chat") == [chat.id]
        assert await ids_of(status="completed", kind="text") == [other.id, done.id]
        assert await ids_of(model="prompt-only") == [other.id]
        assert await ids_of(model="echo", kind="text", status="completed") == [done.id]
        assert await ids_of(created_after=between) == [other.id]
        assert await ids_of(created_before=between, status="completed") == [chat.id, done.id]
        assert await ids_of(created_before=later(between, -3600)) == []
        with pytest.raises(Invalid):
            await services.generations.page(ANN, Filters(), limit=2, after="usr_x")


async def test_pages_by_number_have_the_total(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = [(await run(services, f"number {number}"))[0].id for number in range(5)]
        pages = [await services.generations.numbered(ANN, Filters(), page=page, per_page=2) for page in (1, 2, 3, 4)]
    assert [[record.id for record in items] for items, _ in pages] == [made[:2:-1], made[2:0:-1], made[:1], []]
    assert {total for _, total in pages} == {5}


async def test_a_model_that_is_not_there_or_cannot_do_it_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        with pytest.raises(NotFound, match="no model 'gpt-9'"):
            await run(services, "x", model="gpt-9")
        with pytest.raises(Invalid, match="prompt-only"):
            await run(services, "x", model="prompt-only", input={"messages": [{"role": "user", "content": "x"}]})


async def test_over_the_rate_nothing_is_made(tmp_path: Path) -> None:
    async with opened(tmp_path, LOQUENT_LIMIT_GENERATIONS="2/minute") as services:
        for _ in range(2):
            await run(services, "x")
        with pytest.raises(Over) as refused:
            await run(services, "x")
        assert 59 < refused.value.retry_after <= 60
        await run(services, "another's rate is their own", who=BOB)
        assert len((await services.generations.page(ANN, Filters(), limit=10)).items) == 2


# Idempotency


def key(body: bytes = b"body", name: str = "k1") -> Key:
    return Key("POST /api/v1/generations", name, body)


async def test_the_same_request_again_gives_the_first_result(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        first, _ = await run(services, "once", key=key())
        again = await services.generations.begin(ANN, wanted("once", key=key()))
        assert again.replayed and again.now()[0].id == first.id and again.content.output == "once"
        assert len((await services.generations.page(ANN, Filters(), limit=10)).items) == 1


async def test_a_repeated_job_is_one_job(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await asyncio.gather(
            *(services.generations.submit(ANN, wanted("once", key=key())) for _ in range(20)), return_exceptions=True
        )
        made = {each.generation.id for each in begun if not isinstance(each, BaseException)}
        assert len(made) == 1
        assert all(isinstance(each, StillRunning) for each in begun if isinstance(each, BaseException))


async def test_another_body_with_the_key_is_refused_and_another_owner_may_use_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        first, _ = await run(services, "once", key=key())
        with pytest.raises(Mismatch):
            await run(services, "twice", key=key(b"other body"))
        for who in (BOB, ANN_ELSEWHERE):
            other, _ = await run(services, "once", who=who, key=key())
            assert other.id != first.id


async def test_while_the_first_is_running_a_repeat_is_told_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("[hang] x", key=key()))
        running = asyncio.create_task(services.generations.collect(begun))
        await asyncio.sleep(0.02)
        with pytest.raises(StillRunning):
            await services.generations.begin(ANN, wanted("[hang] x", key=key()))
        await services.generations.cancel(ANN, begun.generation.id)
        await running


async def test_a_failed_answer_leaves_the_key_free(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        with pytest.raises(Unavailable):
            await run(services, "[away] x", key=key())
        with pytest.raises(Unavailable):
            await run(services, "[away] x", key=key())
        assert len((await services.generations.page(ANN, Filters(), limit=10)).items) == 2


async def test_keys_are_forgotten_after_a_day(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        await run(services, "once", key=key())
        [mark] = (await services.store.page(Repeat, "all", {}, limit=10)).items
        assert 86_399 < (mark.expires_at - now()) / 1_000_000 <= 86_400
        with time_machine.travel(mark.expires_at / 1_000_000 + 1, tick=True):
            await services.worker.open(alone=False)
            async with asyncio.timeout(20):
                while (await services.store.page(Repeat, "all", {}, limit=10)).items:
                    await asyncio.sleep(0.02)


async def test_an_answer_with_a_key_is_counted_once(tmp_path: Path) -> None:
    async with opened(tmp_path, LOQUENT_STORE=f"sqlite:///{tmp_path}/x.db") as services:
        await run(services, "one two three", key=key())
        [day] = await services.store.get(UsageDay, usage_day("default", "usr_ann", "echo", now()).id)
    assert (day.generations, day.prompt_tokens) == (1, 3)


# Following


async def test_a_follower_sees_all_from_where_it_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[slow 0.005] [words 40] word"))
        seen, offset = "", 0
        async for event in services.generations.follow(ANN, begun.generation.id):
            if event.kind == "delta":
                seen, offset = seen + event.text, event.offset
                if offset > 20:
                    break
        async for event in services.generations.follow(ANN, begun.generation.id, offset):
            seen += event.text
            if event.kind == "done":
                assert event.content is not None
                assert seen == event.content.output
                return
    raise AssertionError("no done event")


class Elsewhere:
    """A job that another process runs, as far as the store can tell."""

    def __init__(self, services: Services, id: str) -> None:
        self._store, self.id = services.store, id

    async def claim(self) -> None:
        put, add = claimed(later(now(), 60), "elsewhere:1")
        await self._store.take(Generation, "due", {}, until=later(now(), 3600), n=1, put=put, add=add)

    async def say(self, text: str, *, ends: bool = False) -> None:
        [record], [texts] = await self._store.get(Generation, self.id), await self._store.get(Content, self.id)
        changed = extended(record, later(now(), 60), steps_done=0, steps=0, characters=len(text))
        changed = finished(changed, Outcome(COMPLETED, text)) if ends else changed
        await self._store.write(Replace(record, changed), Replace(texts, evolve(texts, output=text)))


@asynccontextmanager
async def elsewhere(folder: Path) -> AsyncIterator[tuple[Services, Elsewhere]]:
    async with opened(folder, works=False) as services:
        job = Elsewhere(services, (await services.generations.submit(ANN, wanted("x"))).generation.id)
        await job.claim()
        yield services, job


def following(services: Services, job: Elsewhere, offset: int = 0, attempt: int = 1) -> AsyncIterator[Event]:
    return services.generations.follow(ANN, job.id, offset, attempt=attempt)


def seen(event: Event) -> tuple[str, str, int, int]:
    return event.kind, event.text, event.offset, event.attempt


async def test_who_has_seen_more_than_this_process_knows_waits_for_the_rest(tmp_path: Path) -> None:
    async with elsewhere(tmp_path) as (services, job):
        await job.say("one ")
        next_one = asyncio.create_task(anext(following(services, job, 8)))
        await asyncio.sleep(0.4)
        assert not next_one.done(), "neither from its start, nor anything twice"
        await job.say("one two three")
        assert seen(await next_one) == ("delta", "three", 13, 1)


async def test_an_attempt_that_begins_anew_is_told_from_its_start_and_never_mixed(tmp_path: Path) -> None:
    async with elsewhere(tmp_path) as (services, job):
        await job.say("one two")
        events = following(services, job)
        assert seen(await anext(events)) == ("delta", "one two", 7, 1)
        await job.claim()  # its lease ran out
        assert seen(await anext(events)) == ("restart", "", 0, 2)
        await job.say("ONE")
        assert seen(await anext(events)) == ("delta", "ONE", 3, 2), "nothing of the text that it found there"
        for offset, attempt, expected in ((2, 2, ("delta", "E", 3, 2)), (2, 1, ("restart", "", 0, 2))):
            assert seen(await anext(following(services, job, offset, attempt))) == expected
        await job.say("ONE TWO", ends=True)
        assert [seen(each) async for each in events] == [("delta", " TWO", 7, 2), ("done", "", 7, 2)]


async def test_one_that_is_over_is_followed_from_its_record(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made, _ = await run(services, "one two")
        events = [event async for event in services.generations.follow(ANN, made.id, 4)]
        assert [(event.kind, event.text, event.offset) for event in events] == [("delta", "two", 7), ("done", "", 7)]
        past = [event.kind async for event in services.generations.follow(ANN, made.id, 400)]
    assert past == ["restart", "delta", "done"]


async def test_what_the_store_cannot_keep_of_an_answer_is_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("x"))
        assert begun.live is not None

        async def nul(ask):
            yield Chunk("one\0two")

        begun.live.offer.engine.stream = nul  # type: ignore[method-assign]  # an upstream that says \u0000
        await services.generations.collect(begun)
        kept, content = await services.generations.get(ANN, begun.generation.id)
    assert (kept.status, content.output) == ("completed", "onetwo")


async def test_an_empty_prompt_that_is_cut_short_is_still_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("", input={"prompt": "", "plain": True}))
        assert begun.live is not None

        async def silent(ask):
            yield Chunk("said")

        begun.live.offer.engine.stream = silent  # type: ignore[method-assign]  # an upstream that counts no tokens
        await services.generations.collect(begun)
        kept, _ = await services.generations.get(ANN, begun.generation.id)
    assert (kept.status, kept.prompt_tokens, kept.usage_estimated) == ("completed", 0, True)


async def test_a_hang_up_while_a_checkpoint_is_written_stops_neither_the_keeper_nor_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("[slow 0.15] one two three", streamed=True))
        write, slow, goes_on = services.store.write, asyncio.Event(), asyncio.Event()

        async def slowly(*changes):
            slow.set()
            await goes_on.wait()
            await write(*changes)

        services.store.write = slowly  # type: ignore[method-assign]  # a disk that takes its time
        reading = asyncio.create_task(services.generations.collect(begun))
        await slow.wait()
        await until(lambda: begun.live is not None and begun.live.text == "one two three")
        await asyncio.sleep(0.1)  # the answer is whole, and its end waits for a write
        reading.cancel()
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
        with pytest.raises(asyncio.CancelledError):
            await reading
        async with asyncio.timeout(10):
            while services.runner.lives or services.runner._concluding:
                await asyncio.sleep(0.01)
        services.store.write = write  # type: ignore[method-assign]
        kept, content = await services.generations.get(ANN, begun.generation.id)
        assert services.runner.checkpoints.is_open
    assert (kept.is_over, content.output) == (True, "one two three")


async def test_a_cancelled_answer_ends_though_its_caller_takes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.begin(ANN, wanted("[words 5000] word", streamed=True))

        async def stall() -> None:
            async for _ in services.generations.stream(begun):
                await asyncio.sleep(3600)

        stalled = asyncio.create_task(stall())
        while begun.live is None or not begun.live.text or not begun.live.saved:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            kept, _ = await services.generations.cancel(ANN, begun.generation.id)
        await asyncio.gather(stalled, return_exceptions=True)
    assert kept.status == "cancelled"


# Stopping


async def test_a_stop_hands_jobs_back_and_ends_streams_with_an_error(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        job = await services.generations.submit(ANN, wanted("[slow 0.01] [words 5000] word"))
        begun = await services.generations.begin(ANN, wanted("[slow 0.01] [words 5000] word", streamed=True))
        reading = asyncio.create_task(services.generations.collect(begun))
        while len(services.runner.lives) < 2 or not all(each.text for each in services.runner.lives.values()):
            await asyncio.sleep(0.01)
        await services.worker.close()
        await services.runner.close()
        with pytest.raises(Unavailable, match="stopped"):
            await reading
        handed, _ = await services.generations.get(ANN, job.generation.id)
        ended, content = await services.generations.get(ANN, begun.generation.id)
    assert (handed.status, handed.attempts) == ("pending", 0)
    assert (ended.status, ended.finish_reason) == ("failed", live.INTERRUPTED)
    assert content.output.startswith("word")


async def test_ids_are_sorted_by_time_and_turn_into_uuids_and_back() -> None:
    made = [ids.new("gen") for _ in range(1000)]
    assert made == sorted(set(made))
    assert ids.from_uuid("gen", ids.as_uuid(made[0])) == made[0]
    assert ids.from_uuid("gen", "not a uuid") is None
    assert ids.floor("gen", now()) > made[-1]


def test_ids_say_when_also_behind_a_clock_that_was_set_back() -> None:
    with time_machine.travel(time.time() + 60):
        ahead = ids.new("gen")
    assert ids.new("gen") < ids.floor("gen", later(now(), 1)) < ahead
