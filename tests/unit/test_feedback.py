"""Feedback, by the services alone: one for each answer, many for a chat, one's own, and beside what it is about."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import time_machine

from built import ANN, ANN_ELSEWHERE, BOB, opened, wanted
from loquent.domain.errors import Conflict, Invalid, NotFound
from loquent.domain.feedback import Feedback
from loquent.domain.generations import Generation
from loquent.domain.principals import Principal
from loquent.domain.sessions import Session, begin
from loquent.ports.store import Add
from loquent.services.feedback import Feedbacks
from loquent.services.scope import Scoped
from loquent.wiring import Services
from storing import Watched

pytestmark = pytest.mark.anyio


async def answered(services: Services, prompt: str = "one two", who: Principal = ANN, **more: Any) -> Generation:
    begun = await services.generations.begin(who, wanted(prompt, **more))
    await services.generations.collect(begun)
    return begun.now()[0]


async def chat(services: Services, who: Principal = ANN) -> Session:
    session = begin(who, surface="api")
    await services.store.write(Add(session))
    return session


async def rating(services: Services, id: str, who: Principal = ANN) -> str | None:
    return (await services.generations.get(who, id))[0].rating


async def test_a_generation_shows_what_is_thought_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for said, shows in (
            ({"thumb": "up"}, "up"),
            ({"thumb": "down", "comment": "wrong"}, "down"),
            ({"score": 3}, "noted"),
            ({"comment": "grüße 🙂"}, "noted"),
            ({"labels": ["harmful", "długi"]}, "noted"),
        ):
            made = await answered(services)
            given = await services.feedbacks.on_generation(ANN, made.id, surface="api", **said)
            assert (given.generation, given.session, given.surface) == (made.id, None, "api")
            assert await rating(services, made.id) == shows
            assert await services.feedbacks.get(ANN, given.id) == given


async def test_what_is_said_anew_counts_and_the_rest_stays(tmp_path: Path) -> None:
    with time_machine.travel(1_700_000_000, tick=False) as clock:
        async with opened(tmp_path) as services:
            made = await answered(services)
            first = await services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="up", comment="good")
            clock.shift(60)
            last = await services.feedbacks.on_generation(ANN, made.id, surface="page", thumb="down", score=1)
            page = await services.feedbacks.page(ANN, limit=10)
            assert page.items == [last]
            assert (last.id, last.created_at, last.updated_at - first.updated_at) == (
                first.id,
                first.created_at,
                60_000_000,
            )
            assert (last.thumb, last.score, last.comment, last.surface) == ("down", 1, "good", "page")
            assert await rating(services, made.id) == "down"
            noted = await services.feedbacks.on_generation(ANN, made.id, surface="api", labels=["short"])
            assert (noted.thumb, noted.score, noted.comment, noted.labels) == ("down", 1, "good", {"labels": ["short"]})
            assert await rating(services, made.id) == "down", "a later comment leaves the thumb as it was"


@pytest.mark.parametrize("store", ["memory:", "sqlite"])
async def test_twenty_at_once_leave_one_and_nobody_hears_of_it(tmp_path: Path, store: str) -> None:
    url = store if store == "memory:" else f"sqlite:///{tmp_path}/loquent.db"
    async with opened(tmp_path, LOQUENT_STORE=url) as services:
        made = await answered(services)
        thumbs = ("up", "down") * 10
        given = await asyncio.gather(
            *(services.feedbacks.on_generation(ANN, made.id, surface="api", thumb=thumb) for thumb in thumbs)
        )
        page = await services.feedbacks.page(ANN, limit=100)
        assert len(page.items) == 1
        [kept] = page.items
        assert {each.id for each in given} == {kept.id}
        assert kept.version == max(each.version for each in given) == 20, "each of them was written once"
        assert await rating(services, made.id) == kept.thumb


class Unguarded(Feedbacks):
    """The negative control of the race: as one writes it who does not think of others."""

    async def on_generation(self, who: Principal, generation_id: str, **said: Any) -> Feedback:  # type: ignore[override]
        scoped = Scoped(self._store, who)
        former = await scoped.find(Feedback, "generation", {"generation": generation_id})
        assert former is None, "nobody has spoken yet"
        await scoped.write(Add(Feedback("fbk_" + said["thumb"], 0, *OWN, "api", generation_id, None, **said, **REST)))
        raise AssertionError("one of two is told so")


OWN = (ANN.tenant, ANN.owner)
REST: dict[str, Any] = {"score": None, "comment": "", "labels": {"labels": []}, "created_at": 1, "updated_at": 1}


async def test_without_the_care_that_is_taken_one_of_two_would_fail(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = await answered(services)
        careless = Unguarded(services.store)
        told = await asyncio.gather(
            *(careless.on_generation(ANN, made.id, thumb=thumb) for thumb in ("up", "down")), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in told) == ["AssertionError", "Taken"]


async def test_a_chat_has_as_much_feedback_as_is_given(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        one, other = await chat(services), await chat(services)
        given = [
            await services.feedbacks.on_session(ANN, one.id, surface="chat", comment=f"number {number}")
            for number in range(5)
        ]
        await services.feedbacks.on_session(ANN, other.id, surface="chat", score=5)
        first = await services.feedbacks.page(ANN, limit=3, session=one.id)
        rest = await services.feedbacks.page(ANN, limit=3, session=one.id, after=first.items[-1].id)
        assert (first.items + rest.items, first.more, rest.more) == (given[::-1], True, False)
        assert len((await services.feedbacks.page(ANN, limit=10)).items) == 6


async def test_many_may_speak_of_a_chat_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await chat(services)
        await asyncio.gather(
            *(services.feedbacks.on_session(ANN, session.id, surface="chat", thumb="up") for _ in range(20))
        )
        assert len((await services.feedbacks.page(ANN, limit=100, session=session.id)).items) == 20


@pytest.mark.parametrize("who", [BOB, ANN_ELSEWHERE])
async def test_what_is_anothers_is_not_found(tmp_path: Path, who: Principal) -> None:
    async with opened(tmp_path) as services:
        made, session = await answered(services), await chat(services)
        given = await services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="up")
        with pytest.raises(NotFound):
            await services.feedbacks.on_generation(who, made.id, surface="api", thumb="down")
        with pytest.raises(NotFound):
            await services.feedbacks.on_session(who, session.id, surface="api", thumb="down")
        for look in (services.feedbacks.get, services.feedbacks.remove):
            with pytest.raises(NotFound):
                await look(who, given.id)
        for narrowed in ({}, {"generation": made.id}, {"session": session.id}):
            assert (await services.feedbacks.page(who, limit=10, **narrowed)).items == []
        assert [each async for each in services.feedbacks.export(who)] == []
        assert await rating(services, made.id) == "up"


async def test_nothing_said_of_what_is_not_there_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for generation in ("gen_" + "0" * 32, "", "fbk_x"):
            with pytest.raises(NotFound):
                await services.feedbacks.on_generation(ANN, generation, surface="api", thumb="up")
        with pytest.raises(NotFound):
            await services.feedbacks.on_session(ANN, "ses_" + "0" * 32, surface="api", thumb="up")
        assert (await services.feedbacks.page(ANN, limit=10)).items == []


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"comment": "  \n"},
        {"thumb": "sideways"},
        {"score": 0},
        {"score": 6},
        {"comment": "x" * 10_001},
        {"labels": ["x"] * 21},
        {"labels": ["x" * 65]},
        {"labels": [""]},
    ],
)
async def test_what_is_no_feedback_is_refused(tmp_path: Path, said: dict[str, Any]) -> None:
    async with opened(tmp_path) as services:
        made = await answered(services)
        with pytest.raises(Invalid):
            await services.feedbacks.on_generation(ANN, made.id, surface="api", **said)
        assert await rating(services, made.id) is None


async def test_what_is_taken_back_is_as_never_said(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made, session = await answered(services), await chat(services)
        said = await services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="up")
        other = await services.feedbacks.on_session(ANN, session.id, surface="api", thumb="up")
        await services.feedbacks.remove(ANN, said.id)
        await services.feedbacks.remove(ANN, other.id)
        assert await rating(services, made.id) is None
        assert (await services.feedbacks.page(ANN, limit=10)).items == []
        with pytest.raises(NotFound):
            await services.feedbacks.remove(ANN, said.id)
        again = await services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="down")
        assert again.id != said.id


async def test_who_takes_back_and_who_speaks_at_once_leave_a_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = await answered(services)
        said = await services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="up")
        await asyncio.gather(
            services.feedbacks.remove(ANN, said.id),
            *(services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="down") for _ in range(5)),
            return_exceptions=True,
        )
        kept = (await services.feedbacks.page(ANN, limit=10)).items
        assert [each.thumb for each in kept] == [each for each in [await rating(services, made.id)] if each]


async def test_what_is_said_of_an_answer_goes_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made, other = await answered(services), await answered(services)
        await services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="up")
        left = await services.feedbacks.on_generation(ANN, other.id, surface="api", thumb="up")
        await services.generations.remove(ANN, made.id)
        assert (await services.feedbacks.page(ANN, limit=10)).items == [left]


async def test_an_answer_that_is_removed_while_it_is_spoken_of_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for _ in range(10):
            made = await answered(services)
            told = await asyncio.gather(
                *(services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="up") for _ in range(3)),
                services.generations.remove(ANN, made.id),
                return_exceptions=True,
            )
            assert told[-1] is None
            assert {type(each) for each in told[:-1]} <= {Feedback, NotFound}
        assert (await services.feedbacks.page(ANN, limit=10)).items == []


async def test_one_that_runs_may_be_spoken_of_and_ends_as_if_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[slow 0.01] [words 50] word"))
        await services.feedbacks.on_generation(ANN, begun.generation.id, surface="api", thumb="up")
        async for _ in services.generations.follow(ANN, begun.generation.id):
            pass
        ended, _ = await services.generations.get(ANN, begun.generation.id)
        assert (ended.status, ended.rating) == ("completed", "up")
        with pytest.raises(Conflict):
            running = await services.generations.submit(ANN, wanted("[hang] x"))
            await services.generations.remove(ANN, running.generation.id)


async def test_an_export_has_what_each_is_about(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await chat(services)
        input = {"message": "wie geht’s?"}
        turns = []
        for number in (1, 2):
            turn = await answered(services, kind="chat", input=input, session=session.id, turn=number)
            turns.append(turn.id)
        made = await answered(services, "what is asked")
        await services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="up")
        await services.feedbacks.on_session(ANN, session.id, surface="chat", comment="kind")
        await services.feedbacks.on_generation(ANN, turns[1], surface="api", score=4)
        found = [each async for each in services.feedbacks.export(ANN)]
    assert [each.feedback.thumb or each.feedback.score or each.feedback.comment for each in found] == [4, "kind", "up"]
    of_turn, of_session, of_text = found
    assert of_turn.generation and (of_turn.generation.id, of_turn.generation.turn) == (turns[1], 2)
    assert of_turn.content and of_turn.content.input == input
    assert (of_session.generation, of_session.turns) == (None, tuple(turns))
    assert of_text.content and (of_text.content.input, of_text.content.output) == (
        {"prompt": "what is asked"},
        "what is asked",
    )


async def test_an_export_holds_few_texts_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for _ in range(5):
            made = await answered(services, "x" * 600_000)
            await services.feedbacks.on_generation(ANN, made.id, surface="api", thumb="up")
        watched = Watched(services.store)
        found = [each async for each in Feedbacks(watched).export(ANN)]  # type: ignore[arg-type]
    assert len(found) == 5
    assert watched.most == 1, "each of these texts alone is as long as what is held at once"
