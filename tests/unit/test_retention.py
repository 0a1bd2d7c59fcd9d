"""Retention: what has been kept as long as its rule says goes, exactly then, and nothing else ever."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import time_machine

from asking import kept
from built import ANN, BOB, opened, wanted
from loquent.domain.clock import SECOND, later, now
from loquent.domain.documents import Document, DocumentText
from loquent.domain.errors import Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import PROCESSING, Content, Generation
from loquent.domain.idempotency import repeat
from loquent.domain.images import Image
from loquent.domain.principals import Principal
from loquent.domain.sessions import Session, begin
from loquent.ports.store import Add, Change, Remove, Replace, Store
from loquent.services import metrics
from loquent.services.retention import Retention, Rules, Swept
from loquent.wiring import Services
from storing import Watched, id_of, keep

pytestmark = pytest.mark.anyio

DAY = 24 * 3600
START = datetime(2024, 1, 1, tzinfo=UTC)  # long ago: ids that are made now must not lie in the future
NOTHING = Rules()
EVERYTHING = Rules(sessions=184, generations=30, uploads=90, logs=7, blob_grace=3600)


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(START, tick=False) as travelled:
        yield travelled


def set_to(clock: Any, seconds: float, microseconds: int = 0) -> None:
    """So long after the start; a float alone could not say it to the microsecond."""
    clock.move_to(START + timedelta(seconds=seconds, microseconds=microseconds))


def on(clock: Any, microseconds: int) -> None:
    """So much later."""
    clock.shift(timedelta(microseconds=microseconds))


@asynccontextmanager
async def here(folder: Path, store: str = "memory:") -> AsyncIterator[Services]:
    async with opened(folder, works=False, LOQUENT_STORE=store) as services:
        yield services


def sweeper(services: Services, rules: Rules, **more: Any) -> Retention:
    return Retention(more.pop("store", services.store), more.pop("blobs", services.blobs), rules, **more)


async def chat(services: Services, *, turns: int = 2, who: Principal = ANN, **fields: Any) -> Session:
    """A session with so many turns, each with its texts."""
    session = evolve(begin(who, surface="chat"), turns=turns, **fields)
    await services.store.write(Add(session))
    for number in range(1, turns + 1):
        await turn(services, session, number)
    return evolve(session, version=1)


async def turn(services: Services, session: Session, number: int | None, **fields: Any) -> str:
    who = Principal(session.tenant, session.owner, "")
    made = {"kind": "chat", "surface": "chat", "session": session.id, "turn": number, "input": {"message": "hello"}}
    return await keep(services.store, "hello", "hello", who, **{**made, **fields})


async def upload(services: Services, folder: Path, kind: type[Any], *, text: str = "text") -> Any:
    """A document or an image with its blob."""
    name = "doc" if kind is Document else "img"
    head = (id_of(name), 0, ANN.tenant, ANN.owner, "api")
    if kind is Document:
        made: Any = Document(*head, "a.txt", "txt", "text/plain", 4, "0" * 64, len(text), None, now())
        texts = [Add(DocumentText(made.id, 0, ANN.tenant, ANN.owner, text))]
    else:
        made, texts = Image(*head, "a.png", "png", "image/png", 4, "0" * 64, 1, 1, now()), []
    await put(services, folder, made.blob)
    await services.store.write(Add(made), *texts)
    return made


async def put(services: Services, folder: Path, key: str) -> None:
    """A blob that was kept now, as the test's clock says it."""
    (folder / "file").write_bytes(b"file")
    await services.blobs.put(key, folder / "file")
    os.utime(unquote(urlparse(services.blobs.address(key)).path), ns=(now() * 1_000,) * 2)


async def blobs(services: Services) -> set[str]:
    return {each.key async for each in services.blobs.list(until=later(now(), 10 * 365 * DAY))}


def some(swept: Swept) -> dict[str, int]:
    """The kinds of which something went."""
    return {kind: count for kind, count in swept.counts.items() if count}


# The boundary


async def test_a_session_goes_184_days_after_its_last_message_and_not_a_microsecond_before(
    tmp_path: Path, clock: Any
) -> None:
    async with here(tmp_path) as services:
        first = await chat(services)
        on(clock, 1)
        second = await chat(services)
        assert second.last_active_at - first.last_active_at == 1
        set_to(clock, 184 * DAY, -1)
        assert now() - first.last_active_at == 184 * DAY * SECOND - 1
        retention = sweeper(services, Rules(sessions=184, session_minutes=10**6))
        assert some(await retention.sweep()) == {}
        on(clock, 1)
        assert some(await retention.sweep()) == {"sessions": 1, "turns": 2}
        assert [each.id for each in await services.store.get(Session, first.id, second.id)] == [second.id]
        on(clock, 1)
        assert some(await retention.sweep()) == {"sessions": 1, "turns": 2}
        assert not any((await kept(services)).values())


async def test_a_generation_goes_when_its_time_is_over_to_the_microsecond(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        first = await keep(services.store)
        on(clock, 1)
        second = await keep(services.store)
        retention = sweeper(services, Rules(generations=30))
        set_to(clock, 30 * DAY, -1)
        assert some(await retention.sweep()) == {}
        on(clock, 1)
        assert some(await retention.sweep()) == {"generations": 1}
        assert [each.id for each in await services.store.get(Generation, first, second)] == [second]
        assert [each.id for each in await services.store.get(Content, first, second)] == [second]


@pytest.mark.parametrize("kind", [Document, Image])
async def test_an_upload_goes_with_its_text_and_its_file(tmp_path: Path, clock: Any, kind: type[Any]) -> None:
    async with here(tmp_path) as services:
        first = await upload(services, tmp_path, kind)
        on(clock, 1)
        second = await upload(services, tmp_path, kind)
        about = await keep(services.store, upload=first.id, kind="document")
        retention = sweeper(services, Rules(uploads=90, blob_grace=10**9))
        set_to(clock, 90 * DAY, -1)
        assert some(await retention.sweep()) == {}
        on(clock, 1)
        assert sum(some(await retention.sweep()).values()) == 1
        assert [each.id for each in await services.store.get(kind, first.id, second.id)] == [second.id]
        assert await services.store.get(DocumentText, first.id) == []
        assert await blobs(services) == {second.blob}
        assert await services.store.get(Generation, about), "what was answered about it stays"


async def test_a_session_is_closed_at_30_quiet_minutes_and_not_a_microsecond_before(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        session = await chat(services)
        retention = sweeper(services, Rules(session_minutes=30))
        set_to(clock, 30 * 60, -1)
        assert some(await retention.sweep()) == {}
        on(clock, 1)
        assert some(await retention.plan()) == {"expired": 1}
        assert some(await retention.sweep()) == {"expired": 1}
        [closed] = await services.store.get(Session, session.id)
        assert (closed.is_active, closed.last_active_at, closed.turns) == (False, session.last_active_at, 2)
        assert some(await retention.sweep()) == {}


async def test_what_is_kept_for_ever_stays(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        await chat(services)
        await keep(services.store)
        await upload(services, tmp_path, Document)
        before = await kept(services)
        clock.shift(50 * 365 * DAY)
        assert some(await sweeper(services, NOTHING).sweep(force=True)) == {"expired": 1}
        assert await kept(services) == before


async def test_what_belongs_to_a_session_goes_with_it_and_only_then(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        session = await chat(services, turns=60)
        for _ in range(3):
            await turn(services, session, None)  # answers in whose place others were made
        rated = await turn(services, session, 61)
        await services.feedbacks.on_generation(ANN, rated, surface="api", thumb="up")
        for _ in range(25):
            await services.feedbacks.on_session(ANN, session.id, surface="chat", comment="fine")
        lone = await keep(services.store)
        theirs = await chat(services, who=BOB, last_active_at=later(now(), 200 * DAY))
        clock.shift(100 * DAY)
        retention = sweeper(services, Rules(sessions=184, generations=30, session_minutes=10**6))
        assert some(await retention.sweep()) == {"generations": 1}, (
            "its turns are older, but no generations of their own"
        )
        assert await services.store.get(Generation, lone) == []
        clock.shift(84 * DAY)
        planned = await retention.plan()
        swept = await retention.sweep()
        assert planned == swept
        assert some(swept) == {"sessions": 1, "turns": 64, "feedback": 26}
        left = {table: count for table, count in (await kept(services)).items() if count}
        assert left == {"sessions": 1, "generations": 2, "contents": 2}
        assert (await services.store.get(Session, theirs.id))[0].owner == BOB.owner


async def test_a_key_that_has_expired_goes(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        for key in range(45):
            await services.store.write(Add(repeat(ANN, route="r", key=str(key), body=b"", generation="gen_x")))
        retention = sweeper(services, NOTHING)
        set_to(clock, DAY, -1)
        assert some(await retention.sweep()) == {}
        on(clock, 1)
        assert some(await retention.sweep()) == {"repeats": 45}


# A plan says what then goes


async def furnish(services: Services, folder: Path) -> None:
    """Some of everything."""
    for number in range(7):
        session = await chat(services, turns=number)
        await services.feedbacks.on_session(ANN, session.id, surface="chat", thumb="up")
        await turn(services, session, None)
    for number in range(25):
        made = await keep(services.store)
        if number % 3:
            await services.feedbacks.on_generation(ANN, made, surface="api", thumb="down")
    for kind in (Document, Image) * 12:
        await upload(services, folder, kind)
    for key in ("documents/" + id_of("doc"), "images/" + id_of("img")):
        await put(services, folder, key)


@pytest.mark.parametrize(
    ("store", "days"), [*(("memory:", days) for days in (0, 1, 31, 91, 200)), ("sqlite", 31), ("sqlite", 200)]
)
async def test_a_plan_says_exactly_what_then_goes(tmp_path: Path, clock: Any, store: str, days: int) -> None:
    url = store if store == "memory:" else f"sqlite:///{tmp_path}/loquent.db"
    async with here(tmp_path, url) as services:
        await furnish(services, tmp_path)
        set_to(clock, days * DAY)
        await keep(services.store)  # one that stays
        retention = sweeper(services, EVERYTHING)
        before, files = await kept(services), await blobs(services)
        planned = await retention.plan()
        assert (await kept(services), await blobs(services)) == (before, files), "a plan changes nothing"
        assert await retention.plan() == planned
        swept = await retention.sweep()
        assert swept == planned
        assert some(await retention.sweep()) == {}, "all of it went"
        after = await kept(services)
        assert before["generations"] - after["generations"] == swept.counts["generations"] + swept.counts["turns"]
        assert before["contents"] - after["contents"] == before["generations"] - after["generations"]
        for kind in ("sessions", "documents", "images", "feedback"):
            table = "feedbacks" if kind == "feedback" else kind
            assert before[table] - after[table] == swept.counts[kind], kind
        went = swept.counts["blobs"] + swept.counts["documents"] + swept.counts["images"]
        assert len(files) - len(await blobs(services)) == went
        assert (days == 200) == (after["sessions"] == 0)


# The share


async def test_so_large_a_share_is_not_removed_without_being_told(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with here(tmp_path) as services:
        for _ in range(21):
            await keep(services.store)
        await upload(services, tmp_path, Document)
        clock.shift(30 * DAY)
        for _ in range(79):
            await keep(services.store)
        retention = sweeper(services, Rules(generations=30, uploads=30, share=0.2))
        assert (await retention.plan()).refused == {"generations": 21}
        assert not caplog.records, "a plan is told to the one who asks for it"
        refused = await retention.sweep()
        assert (some(refused), refused.refused) == ({"documents": 1}, {"generations": 21}), "the other kinds go"
        assert (await kept(services))["generations"] == 100
        [warning] = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert warning.__dict__["fields"] == {
            "kind": "generations",
            "due": 21,
            "share": 0.2,
            "command": "loquent store sweep --force",
        }
        told = await retention.sweep(force=True)
        assert (some(told), told.refused) == ({"generations": 21}, {})


@pytest.mark.parametrize(
    ("old", "young", "share", "goes"),
    [
        (20, 80, 0.2, True),  # exactly the share
        (21, 79, 0.2, False),
        (99, 0, 0.2, True),  # too few of them for a share to mean something
        (100, 0, 0.2, False),
        (100, 0, 1.0, True),  # the negative control: with the guard off, all of them go
        (1, 99, 0.0, False),
        (1, 98, 0.0, True),
    ],
)
async def test_the_share_is_of_all_there_are(
    tmp_path: Path, clock: Any, old: int, young: int, share: float, goes: bool
) -> None:
    async with here(tmp_path) as services:
        for _ in range(old):
            await services.store.write(Add(begin(ANN, surface="chat")))
        clock.shift(184 * DAY)
        for _ in range(young):
            await services.store.write(Add(begin(ANN, surface="chat")))
        swept = await sweeper(services, Rules(sessions=184, share=share)).sweep()
        assert swept.counts["sessions"] == (old if goes else 0)
        assert swept.refused == ({} if goes else {"sessions": old})
        assert swept.counts["expired"] == (0 if goes else old), "what stays is closed all the same"


async def test_files_that_all_seem_to_have_no_record_stay(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        for _ in range(100):
            await put(services, tmp_path, "documents/" + id_of("doc"))
        set_to(clock, DAY)
        another = sweeper(services, Rules(share=0.2))  # as where the settings name another, empty database
        assert (await another.sweep()).refused == {"blobs": 100}
        assert len(await blobs(services)) == 100
        assert (await another.sweep(force=True)).counts["blobs"] == 100
        assert await blobs(services) == set()


async def test_files_of_another_database_stay_whatever_comes_to_this_one(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services, here(tmp_path, "sqlite:///" + str(tmp_path / "other.db")) as another:
        theirs = {(await upload(another, tmp_path, kind)).blob for kind in (Document, Image)}
        set_to(clock, DAY)
        for made in (False, True):  # as where LOQUENT_STORE names a new database: first empty, then in use
            if made:
                await upload(services, tmp_path, Document)
                await put(services, tmp_path, orphan := "documents/" + id_of("doc"))
                set_to(clock, 2 * DAY)
            retention = sweeper(services, Rules(blob_grace=3600))
            for swept in (await retention.plan(), await retention.sweep()):
                assert (swept.counts["blobs"], swept.refused) == (int(made), {"strays": 2})
            assert theirs <= await blobs(services)
        assert orphan not in await blobs(services)
        assert (await retention.sweep(force=True)).counts["blobs"] == 2


# While others are at work


class Meddling:
    """A store in which somebody does something just before each write of the sweeper's."""

    def __init__(self, store: Store, meddle: Any) -> None:
        self._store = store
        self._meddle = meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, *changes: Change) -> None:
        await self._meddle(self._store, changes)
        await self._store.write(*changes)


def removed(changes: tuple[Change, ...], kind: type[Any]) -> list[Any]:
    return [each.record for each in changes if isinstance(each, Remove) and isinstance(each.record, kind)]


async def test_one_that_changes_meanwhile_stays_and_the_others_go(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        made = [await keep(services.store) for _ in range(50)]
        spoken = made[::7]
        clock.shift(30 * DAY)
        left = set(spoken)

        async def speak(store: Store, changes: tuple[Change, ...]) -> None:
            for each in removed(changes, Generation):
                if each.id in left:
                    left.remove(each.id)
                    await services.feedbacks.on_generation(ANN, each.id, surface="api", thumb="up")

        retention = sweeper(services, Rules(generations=30), store=Meddling(services.store, speak))
        assert some(await retention.sweep()) == {"generations": 50 - len(spoken)}
        kept_now = await services.store.get(Generation, *made)
        assert [each.id for each in kept_now] == spoken
        assert (await kept(services))["feedbacks"] == len(spoken), "none of it without its generation"
        assert some(await retention.sweep()) == {"generations": len(spoken), "feedback": len(spoken)}


async def test_a_session_in_which_something_is_said_meanwhile_stays_closed_and_goes_the_next_time(
    tmp_path: Path, clock: Any
) -> None:
    async with here(tmp_path) as services:
        session = await chat(services, turns=8)
        clock.shift(184 * DAY)
        once = [session.id]

        async def speak(store: Store, changes: tuple[Change, ...]) -> None:
            if removed(changes, Session) and once:
                await services.feedbacks.on_session(ANN, once.pop(), surface="chat", comment="late")

        retention = sweeper(services, Rules(sessions=184), store=Meddling(services.store, speak))
        assert some(await retention.sweep()) == {"turns": 8}
        [left] = await services.store.get(Session, session.id)
        assert not left.is_active
        assert some(await retention.sweep()) == {"sessions": 1, "feedback": 1}
        assert not any((await kept(services)).values())


async def test_who_speaks_first_keeps_the_session(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        session = await chat(services)
        clock.shift(184 * DAY)
        once = [True]

        async def speak(store: Store, changes: tuple[Change, ...]) -> None:
            if once and isinstance(changes[0], Replace) and isinstance(changes[0].old, Session):
                once.clear()
                await store.write(Replace(session, evolve(session, last_active_at=now(), turns=3)))

        rules = Rules(sessions=184, session_minutes=10**6)  # so long that a session outlives the rule
        retention = sweeper(services, rules, store=Meddling(services.store, speak))
        assert some(await retention.sweep()) == {}
        assert (await kept(services))["generations"] == 2


async def test_what_still_runs_stays_and_so_does_its_session(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        session = await chat(services)
        runs = await turn(services, session, 3, status=PROCESSING, due_at=now())
        lone = await keep(services.store, status=PROCESSING, due_at=now())
        clock.shift(184 * DAY)
        retention = sweeper(services, EVERYTHING)
        planned = await retention.plan()
        assert some(await retention.sweep()) == some(planned) == {"turns": 2}
        assert {each.id for each in await services.store.get(Generation, runs, lone)} == {runs, lone}
        assert [each.id for each in await services.store.get(Session, session.id)] == [session.id]
        for id in (runs, lone):
            [record] = await services.store.get(Generation, id)
            await services.store.write(Replace(record, evolve(record, status="completed", due_at=None)))
        assert some(await retention.sweep()) == {"turns": 1, "sessions": 1, "generations": 1}


@pytest.mark.parametrize("store", ["memory:", "sqlite"])
async def test_two_at_once_remove_everything_once(tmp_path: Path, clock: Any, store: str) -> None:
    url = store if store == "memory:" else f"sqlite:///{tmp_path}/loquent.db"
    async with here(tmp_path, url) as one, here(tmp_path, url) as another:
        await furnish(one, tmp_path)
        other = one if store == "memory:" else another
        set_to(clock, 200 * DAY)
        planned = await sweeper(one, EVERYTHING).plan()
        first, second = await asyncio.gather(
            sweeper(one, EVERYTHING).sweep(), sweeper(other, EVERYTHING, blobs=one.blobs).sweep()
        )
        rest = await sweeper(one, EVERYTHING).sweep()  # what each found in the other's hands
        assert not any((await kept(one)).values())
        assert await blobs(one) == set()
        for kind, count in planned.counts.items():
            if kind != "blobs":  # to remove a file twice is no fault, and nobody can tell who was first
                assert sum(each.counts.get(kind, 0) for each in (first, second, rest)) == count, kind


async def test_requests_go_on_meanwhile(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        for _ in range(400):
            await keep(services.store)
        set_to(clock, 30 * DAY)
        sweeping = asyncio.create_task(sweeper(services, Rules(generations=30)).sweep())
        answered = 0
        while not sweeping.done():
            begun = await services.generations.begin(BOB, wanted("x", rule="logins"))
            await services.generations.collect(begun)
            answered += 1
            if answered == 5:
                break
        assert not sweeping.done(), "five were answered before it was over"
        assert some(await sweeping) == {"generations": 400}
        assert (await kept(services))["generations"] == 5


# Files


async def test_a_file_without_a_record_goes_after_its_grace_and_others_stay(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        good = await upload(services, tmp_path, Document)
        picture = await upload(services, tmp_path, Image)
        orphan = "documents/" + id_of("doc")
        crossed = f"images/{good.id}"  # a record of another kind is no record of this
        foreign = "exports/" + id_of("exp")
        for key in (orphan, crossed, foreign):
            await put(services, tmp_path, key)
        retention = sweeper(services, Rules(blob_grace=3600))
        set_to(clock, 3600, -1)
        assert some(await retention.sweep()) == {}
        on(clock, 1)
        assert some(await retention.plan()) == some(await retention.sweep()) == {"blobs": 2}
        assert await blobs(services) == {good.blob, picture.blob, foreign}


class Broken:
    """Blobs that cannot be removed while the place is away."""

    def __init__(self, blobs: Any) -> None:
        self._blobs, self.is_away = blobs, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def remove(self, key: str) -> None:
        if self.is_away:
            raise Unavailable("the place for uploaded files is away")
        await self._blobs.remove(key)


async def test_records_go_before_their_files_and_a_fault_stops_only_its_own_rule(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        made = await upload(services, tmp_path, Document)
        await services.store.write(Add(repeat(ANN, route="r", key="k", body=b"", generation="gen_x")))
        set_to(clock, 91 * DAY)
        broken = Broken(services.blobs)
        retention = sweeper(services, EVERYTHING, blobs=broken)
        with pytest.raises(Unavailable):
            await retention.sweep()
        assert not any((await kept(services)).values()), "the rules behind it had their turn"
        assert await blobs(services) == {made.blob}, "a file without a record, which the next pass finds"
        broken.is_away = False
        assert some(await retention.sweep()) == {"blobs": 1}
        assert await blobs(services) == set()


OTHERS = (("app.log.conf", 99), ("other.log.1", 99))


def logs(folder: Path) -> Path:
    for name, age in (("app.log", 9), ("app.log.1", 6.99), ("app.log.2", 7), ("app.log.3", 8), *OTHERS):
        (folder / name).write_text(name)
        os.utime(folder / name, (START.timestamp() - age * DAY,) * 2)
    return folder / "app.log"


def log_names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.glob("*.log*"))


async def test_log_files_that_were_rotated_away_go_in_their_time(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        path = logs(tmp_path)
        retention = sweeper(services, Rules(logs=7), log_path=path)
        assert some(await retention.plan()) == some(await retention.sweep()) == {"logs": 2}
        assert log_names(tmp_path) == ["app.log", "app.log.1", "app.log.conf", "other.log.1"]
        assert some(await sweeper(services, NOTHING, log_path=path).sweep()) == {}


# What it costs, and what it tells


async def test_what_stays_is_not_looked_at_again_and_again(tmp_path: Path, clock: Any) -> None:
    async with here(tmp_path) as services:
        for _ in range(100):
            session = await chat(services, turns=5)
        clock.shift(31 * DAY)
        lone = await keep(services.store)
        watched = Watched(services.store)
        retention = sweeper(services, Rules(sessions=184, generations=30), store=watched)
        assert some(await retention.sweep()) == {"expired": 100}
        assert watched.read > 500, "the first pass looks at all that is old enough"
        await retention.sweep()  # sees that they are closed
        watched.read = 0
        assert some(await retention.sweep()) == {}
        assert watched.read == 0, "none of it can ever fall under the rule"
        late = await turn(services, session, 6, created_at=now())
        clock.shift(30 * DAY)
        assert some(await retention.sweep()) == {"generations": 1}
        assert await services.store.get(Generation, lone) == []
        assert await services.store.get(Generation, late)
        watched.read = 0
        assert some(await sweeper(services, NOTHING, store=watched).sweep()) == {}
        assert watched.read == 101, (
            "a rule that is off reads nothing; a fresh process looks at sessions once, and how old the store is"
        )


async def test_each_pass_that_did_something_leaves_a_line_with_counts(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with here(tmp_path) as services:
        await chat(services)
        await keep(services.store)
        clock.shift(200 * DAY)
        caplog.set_level(logging.INFO, "loquent.retention")
        retention = sweeper(services, EVERYTHING)
        await retention.plan()
        assert caplog.records == []
        await retention.sweep()
        [line] = caplog.records
        assert (line.name, line.getMessage()) == ("loquent.retention", "swept")
        assert line.__dict__["fields"] == {"forced": False, "sessions": 1, "turns": 2, "generations": 1}
        caplog.clear()
        await retention.sweep()
        assert caplog.records == [], "nothing went, nothing is said"


async def test_a_pass_that_is_cut_off_tells_what_it_did(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with here(tmp_path) as services:
        for _ in range(50):
            await keep(services.store)
        await chat(services, turns=0)
        clock.shift(200 * DAY)
        caplog.set_level(logging.INFO, "loquent.retention")
        writes = 0

        async def stop(store: Store, changes: tuple[Change, ...]) -> None:
            nonlocal writes
            writes += bool(removed(changes, Generation))
            if writes == 3:
                raise asyncio.CancelledError

        retention = sweeper(services, EVERYTHING, store=Meddling(services.store, stop))
        before = counted("generations")
        with pytest.raises(asyncio.CancelledError):
            await retention.sweep()
        left = (await kept(services))["generations"]
        [line] = caplog.records
        assert line.__dict__["fields"] == {"forced": False, "sessions": 1, "generations": 50 - left}
        assert counted("generations") - before == 50 - left > 0
        assert (await kept(services))["contents"] == left, "what was cut off left nothing half done"


def counted(kind: str) -> float:
    """What the metric says of a kind."""
    return metrics.registry.get_sample_value("loquent_swept_total", {"kind": kind}) or 0.0


async def test_it_runs_by_itself_and_ends_with_the_services(tmp_path: Path) -> None:
    environ = {"LOQUENT_KEEP_GENERATIONS": "0.0000001", "LOQUENT_RETENTION_SECONDS": "0.02"}
    async with opened(tmp_path, **environ) as services:
        await keep(services.store)
        async with asyncio.timeout(10):
            while (await kept(services))["generations"]:
                await asyncio.sleep(0.01)
    assert not [each for each in asyncio.all_tasks() if each.get_name() == "retention"]


@pytest.mark.parametrize(
    ("works", "seconds"), [(False, "0.02"), (True, "0")], ids=["a process that serves no jobs", "told not to"]
)
async def test_it_does_not_run_by_itself_where_it_should_not(tmp_path: Path, works: bool, seconds: str) -> None:
    async with opened(tmp_path, works=works, LOQUENT_RETENTION_SECONDS=seconds):
        assert not [each for each in asyncio.all_tasks() if each.get_name() == "retention"]
