"""Sessions: when they end, what they may take, how they are looked through and erased, and whose they are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import time_machine

from asking import kept
from built import ANN, ANN_ELSEWHERE, BOB, opened
from chatting import FREE, PAST, PLAIN, begun, past, say, turns, until
from loquent.domain import sessions as domain
from loquent.domain.clock import now
from loquent.domain.errors import Conflict, Gone, Invalid, LoquentError, NotFound, Unavailable
from loquent.domain.generations import Generation
from loquent.domain.principals import Principal
from loquent.domain.sessions import Session
from loquent.ports.store import Remove
from loquent.services import limits
from loquent.services.limits import Over
from loquent.services.sessions import Manner
from loquent.services.wanted import Key

pytestmark = pytest.mark.anyio


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
