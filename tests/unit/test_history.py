"""History, by the services alone: everything one asked, narrowed, searched and given out; in bounded steps."""

from __future__ import annotations

import sys
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from built import ANN, ANN_ELSEWHERE, BOB, opened
from loquent.domain.clock import later, now
from loquent.domain.errors import Invalid
from loquent.domain.evolve import evolve
from loquent.domain.generations import Content
from loquent.domain.principals import Principal
from loquent.domain.sessions import begin as begin_session
from loquent.ports.store import Add
from loquent.services.history import JOINER, Filters, History, folded, written
from storing import Watched, keep

pytestmark = pytest.mark.anyio


async def walked(past: History, filters: Filters, *, limit: int = 3, who: Principal = ANN) -> list[str]:
    """All ids, page by page, as a client goes on from ``last``."""
    found: list[str] = []
    after = None
    while True:
        page = await past.page(who, filters, limit=limit, after=after)
        found += [each.id for each in page.items]
        assert len(page.items) <= limit
        if not page.more:
            return found
        assert page.last is not None and (after is None or page.last < after), "each step goes on"
        after = page.last


async def test_every_kind_and_surface_is_in_one_list_newest_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = [
            await keep(services.store, kind=kind, surface=surface)
            for kind, surface in (("text", "api"), ("chat", "openai"), ("document", "documents"), ("image", "images"))
        ]
        for limit in (1, 2, 3, 4, 5, 100):
            assert await walked(services.history, Filters(), limit=limit) == made[::-1]
        page = await services.history.page(ANN, Filters(), limit=4)
        assert (page.more, page.last) == (False, made[0]), "the end is known where nothing is narrowed"


async def test_it_is_narrowed_by_every_filter_alone_and_together(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        store = services.store
        session = begin_session(ANN, surface="chat")
        await store.write(Add(session))
        plain = await keep(store)
        chat = await keep(store, kind="chat", surface="chat", session=session.id, turn=1, rating="up")
        anew = await keep(store, kind="chat", surface="chat", session=session.id, rating="noted")
        between = now()
        failed = await keep(store, status="failed", model="other", surface="openai", rating="down")
        for filters, expected in (
            (Filters(kind="chat"), [anew, chat]),
            (Filters(status="failed"), [failed]),
            (Filters(model="other"), [failed]),
            (Filters(surface="chat"), [anew, chat]),
            (Filters(surface="openai", kind="text"), [failed]),
            (Filters(session=session.id), [anew, chat]),
            (Filters(rating="up"), [chat]),
            (Filters(rating="down"), [failed]),
            (Filters(rating="noted"), [anew]),
            (Filters(rating="any"), [failed, anew, chat]),
            (Filters(rating="none"), [plain]),
            (Filters(rating="any", surface="chat", kind="chat", status="completed"), [anew, chat]),
            (Filters(created_after=between), [failed]),
            (Filters(created_before=between), [anew, chat, plain]),
            (Filters(created_before=between, rating="none"), [plain]),
            (Filters(created_after=later(between, 3600)), []),
            (Filters(session="ses_" + "0" * 32), []),
        ):
            for limit in (1, 2, 10):
                assert await walked(services.history, filters, limit=limit) == expected, filters


@pytest.mark.parametrize("who", [BOB, ANN_ELSEWHERE])
async def test_another_sees_none_of_it(tmp_path: Path, who: Principal) -> None:
    async with opened(tmp_path) as services:
        session = begin_session(ANN, surface="chat")
        await services.store.write(Add(session))
        made = await keep(services.store, "a secret", session=session.id, rating="up")
        for filters in (Filters(), Filters(text="secret"), Filters(session=session.id), Filters(rating="any")):
            assert await walked(services.history, filters, who=who) == []
            assert [each async for each in services.history.export(who, filters)] == []
            assert await walked(services.history, filters) == [made]


# Search


@pytest.mark.parametrize(
    ("needle", "found"),
    [
        ("harbour", True),
        ("HARBOUR", True),
        ("answered in", True),
        ("straße", True),
        ("STRASSE", True),
        ("café", True),
        ("cafe\u0301", True),
        ("CAFÉ", True),
        ("日本", True),
        ("🙂", True),
        ("ΟΔΌΣ", True),
        ("prompt", False),
        ("nowhere", False),
        ("%", False),
        ("_", False),
        (".*", False),
    ],
)
async def test_what_is_searched_stands_in_the_input_or_in_the_output(tmp_path: Path, needle: str, found: bool) -> None:
    async with opened(tmp_path) as services:
        made = await keep(services.store, "The Harbour in der Straße, Cafe\u0301 und CAFÉ", "Answered in 日本 🙂 οδός")
        await keep(services.store, "another", "text")
        assert await walked(services.history, Filters(text=needle)) == ([made] if found else [])


async def test_every_form_of_input_is_searched(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for input in (
            {"prompt": "a needle"},
            {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "a Needle"}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a needle"}, {"type": "image_url"}]}]},
            {"text": "needle", "length": "short"},
            {"message": "a needle"},
            {"document": "doc_1", "name": "needle.pdf", "instruction": "what is it?"},
            {"document": "doc_1", "name": "a.pdf", "instruction": "find the needle"},
            {"image": "img_1", "name": "a.png", "prompt": "is there a needle?"},
        ):
            made = await keep(services.store, input=input)
            assert await walked(services.history, Filters(text="NEEDLE", created_after=None), limit=100) == [made]
            await services.generations.remove(ANN, made)
        await keep(services.store, input={"document": "doc_needle", "name": "a.txt", "instruction": ""})
        assert await walked(services.history, Filters(text="needle")) == [], "ids and roles are no texts"


async def test_a_search_for_nothing_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        with pytest.raises(Invalid):
            await services.history.page(ANN, Filters(text=" \n"), limit=1)


async def test_one_call_looks_at_so_many_and_says_where_to_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        oldest = await keep(services.store, "the needle")
        for _ in range(130):
            await keep(services.store, "hay", surface="openai")
        watched = Watched(services.store)
        past = History(watched, scanned=40, step=10)  # type: ignore[arg-type]
        for filters in (Filters(text="needle"), Filters(surface="api"), Filters(text="needle", kind="text")):
            watched.read = 0
            page = await past.page(ANN, filters, limit=5)
            assert (page.items, page.more) == ([], True), "it answers though it has found nothing yet"
            assert watched.read == 40
            steps = 0
            while page.more:
                page = await past.page(ANN, filters, limit=5, after=page.last)
                steps += 1
            assert [each.id for each in page.items] == [oldest]
            assert steps == 3
        watched.read = 0
        assert len((await past.page(ANN, Filters(), limit=5)).items) == watched.read == 5, "no more than is asked for"
        watched.read = 0
        assert len((await past.page(ANN, Filters(kind="text", status="completed"), limit=5)).items) == watched.read == 5


async def test_one_call_searches_so_much_text(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = [await keep(services.store, "x" * 500 + f" needle {number % 5 == 0}") for number in range(20)]
        watched = Watched(services.store)
        past = History(watched, searched=3_000, at_once=1_000)  # type: ignore[arg-type]
        page = await past.page(ANN, Filters(text="needle false"), limit=100)
        assert (len(page.items), page.more) == (5, True), "six texts were looked at, five have it"
        assert watched.most == 1, "two are too much at once"
        wanted = [id for number, id in enumerate(made) if number % 5][::-1]
        assert await walked(past, Filters(text="needle false"), limit=100) == wanted
        assert await walked(past, Filters(text="needle false"), limit=2) == wanted


@pytest.mark.parametrize("text", ["a" + "\u0300\u0316" * 60_000, "\u0316\u0300" * 60_000, "\u2014" * 120_000])
async def test_marks_without_end_on_one_letter_are_searched_as_fast_as_any_text(tmp_path: Path, text: str) -> None:
    """To order them all takes time by their square: half a minute; so a bound of seconds tells it on any machine."""
    async with opened(tmp_path) as services:
        made = await keep(services.store, text, f"{text} The Needle")
        started = time.perf_counter()
        assert await walked(services.history, Filters(text="zzz")) == []
        assert await walked(services.history, Filters(text="NEEDLE")) == [made]
        assert await walked(services.history, Filters(text=text)) == [made]
        assert time.perf_counter() - started < 10


async def test_others_are_served_while_somebody_searches(tmp_path: Path) -> None:
    """No text is compared in the thread of the loop."""
    seen: set[int] = set()

    class Telling(dict[str, Any]):
        def items(self) -> Any:
            seen.add(threading.get_ident())
            return super().items()

    class Given(Watched):
        async def get(self, kind: type[Any], *ids: str) -> list[Any]:
            found = await super().get(kind, *ids)
            return [evolve(each, input=Telling(each.input)) for each in found] if kind is Content else found

    async with opened(tmp_path) as services:
        made = await keep(services.store, "the needle")
        past = History(Given(services.store))  # type: ignore[arg-type]
        assert await walked(past, Filters(text="needle")) == [made]
    assert seen
    assert threading.get_ident() not in seen


def test_every_mark_is_kept_in_bounds_and_few_marks_are_compared_as_ever() -> None:
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code))]
    assert len(marks) > 800
    assert all(JOINER in folded("a" + mark * 31) for mark in marks)
    assert all(JOINER not in folded("a" + mark * 30) for mark in marks)
    assert folded("a\u0300\u0316") == folded("a\u0316\u0300") == folded("À\u0316")


# Export


async def test_an_export_is_the_list_with_its_texts(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        past = History(services.store, scanned=20, step=10)
        for number in range(57):
            await keep(services.store, f"in {number}", f"out {number}", surface="api" if number % 3 else "openai")
        for filters in (Filters(), Filters(surface="openai"), Filters(text="1"), Filters(text="nowhere")):
            found = [each async for each in past.export(ANN, filters)]
            assert [each.id for each, _ in found] == await walked(past, filters)
            assert all(texts.output == texts.input["prompt"].replace("in", "out") for _, texts in found)
            assert all(texts.id == each.id for each, texts in found)


async def test_an_export_holds_few_texts_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for size in (600_000, 600_000, 1_500_000, 100, 100, 100):
            await keep(services.store, "x" * size)
        watched = Watched(services.store)
        found = [each async for each in History(watched).export(ANN, Filters())]  # type: ignore[arg-type]
        assert [len(texts.input["prompt"]) for _, texts in found] == [100, 100, 100, 1_500_000, 600_000, 600_000]
        assert watched.most == 3


async def test_what_is_removed_while_it_is_given_out_is_left_out(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = [await keep(services.store, f"{number}") for number in range(300)]
        found: list[str] = []
        async for each, _ in services.history.export(ANN, Filters()):
            if not found:
                await services.generations.remove(ANN, made[0])
            found.append(each.id)
        assert found == made[:0:-1]


def test_what_people_wrote_is_told_from_what_programs_did() -> None:
    assert list(written({"prompt": "p", "plain": True})) == ["p"]
    assert list(written({"messages": [{"role": "user", "content": "c"}]})) == ["c"]
    assert list(written({"image": "img_1", "name": "n", "prompt": "p"})) == ["n", "p"]
    assert list(written({"text": "t", "length": "short", "language": "de"})) == ["t"]
    assert list(written({})) == list(written(None)) == []


async def test_sqlite_answers_every_order_of_the_list_from_an_index(tmp_path: Path) -> None:
    async with opened(tmp_path, LOQUENT_STORE=f"sqlite:///{tmp_path}/loquent.db") as services:
        asked: list[Any] = []
        driver = services.store._driver  # type: ignore[attr-defined]
        read = driver.read

        async def reading(call: Any) -> Any:
            asked.append(call)
            return await read(call)

        driver.read = reading
        await keep(services.store)
        for filters in (
            Filters(),
            Filters(kind="text"),
            Filters(status="completed"),
            Filters(model="echo"),
            Filters(kind="text", status="completed"),
            Filters(surface="api"),
            Filters(rating="none"),
            Filters(text="text"),
            Filters(created_after=later(now(), -60)),
        ):
            asked.clear()
            await services.history.page(ANN, filters, limit=50)
            await services.history.page(ANN, filters, limit=50, after="gen_" + "f" * 32)
            for call in asked:
                plan = " ".join(row[-1] for row in await read(evolve(call, sql=f"EXPLAIN QUERY PLAN {call.sql}")))
                assert "USING INDEX" in plan, (filters, plan)
                assert "TEMP B-TREE" not in plan, (filters, plan)
                assert "SCAN" not in plan, (filters, plan)
