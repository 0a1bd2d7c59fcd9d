"""What PostgreSQL alone can get wrong: other processes in the same rows, a server that dies, freezes or comes back."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from loquent.domain.clock import Moment
from loquent.domain.errors import Misconfigured, Stale, Taken, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import Content, Generation
from loquent.domain.usage import UsageDay
from loquent.domain.users import User
from loquent.ports.store import Add, Bump, Replace
from loquent.stores import Keeper, connect
from loquent.stores.migrations import HEAD, configured
from postgres_server import PostgresServer, postgres_server

from .test_store import content, generation, only, usage, user

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("postgres")]


@asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[Keeper]:
    store = connect(url, data_dir=folder)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def mortal() -> Iterator[PostgresServer]:
    """A server of this test's own, that keeps what it said it kept."""
    with postgres_server(fsync="on") as server:
        yield server


async def test_two_processes_that_count_in_the_same_rows_never_meet_in_a_deadlock(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.database()
    async with opened(url, tmp_path) as one, opened(url, tmp_path) as other:
        days = [usage(f"use_{number}") for number in range(10)]
        for day in days:
            await one.write(Bump(day, {"generations": 1}))

        async def finish(store: Keeper, number: int) -> None:
            made = generation()
            some = [days[(number + step) % 10] for step in (0, 7, 3)]  # in another order each time
            counted = [Bump(day, {"generations": 1, "cost": 2}) for day in some]
            await store.write(Add(made), Add(content(made.id)), *counted)

        async with asyncio.timeout(60):
            await asyncio.gather(*(finish(store, number) for number in range(150) for store in (one, other)))
        counted = await one.get(UsageDay, *(day.id for day in days))
        assert sum(day.generations for day in counted) == 10 + 300 * 3
        assert sum(day.cost for day in counted) == 300 * 3 * 2
    with psycopg.connect(url) as looked:
        found = looked.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
        assert found == (0,)


async def test_two_processes_that_change_the_same_records_in_any_order_finish(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.database()
    async with opened(url, tmp_path) as one, opened(url, tmp_path) as other:
        made = [generation(model=str(number)) for number in range(8)]
        for each in made:
            await one.write(Add(each))

        async def touch(store: Keeper, number: int) -> int:
            """Two records in one write, again where somebody was quicker."""
            for tries in range(500):
                pair = await store.get(Generation, made[number % 8].id, made[(number + 3) % 8].id)
                with suppress(Stale):
                    await store.write(*(Replace(each, evolve(each, attempts=each.attempts + 1)) for each in pair))
                    return tries
            raise AssertionError("it never had its turn")

        async with asyncio.timeout(60):
            await asyncio.gather(*(touch(store, number) for number in range(40) for store in (one, other)))
        assert sum(each.attempts for each in await one.get(Generation, *(each.id for each in made))) == 80 * 2


async def test_a_conflict_undoes_its_own_write_and_no_other_of_the_group(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with opened(postgres.database(), tmp_path) as store:
        await store.write(Add(user("ann")))
        before = generation()
        await store.write(Add(before))
        stale = evolve(before, version=7)
        results = await asyncio.gather(
            store.write(Add(user("bob"))),
            store.write(Add(user("ann"))),
            store.write(Add(generation(model="beside")), Replace(stale, evolve(stale, attempts=9))),
            store.write(Add(user("eve", "eve@example.org"))),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), Taken, Stale, type(None)]
        names = {each.username for each in (await store.page(User, "all", {}, limit=10)).items}
        assert names == {"ann", "bob", "eve"}
        kept = (await store.page(Generation, "all", {}, limit=10)).items
        assert [(each.id, each.attempts) for each in kept] == [(before.id, 0)]


async def test_ten_processes_that_start_at_once_migrate_once(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.database()
    stores = [connect(url, data_dir=tmp_path) for _ in range(10)]
    await asyncio.gather(*(store.upgrade() for store in stores))
    assert (await stores[0].check()).current == HEAD
    with psycopg.connect(url) as looked:
        assert looked.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


async def test_who_writes_does_not_wait_for_a_migration_that_waits_for_who_reads(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.database()
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as begun:
        command.upgrade(configured(begun), "0004")
    waits = "SELECT count(*) FROM pg_locks WHERE relation = 'generations'::regclass AND NOT granted"
    with psycopg.connect(url) as dump, psycopg.connect(url, autocommit=True) as writer:
        dump.execute("SELECT count(*) FROM generations")  # and holds the table until it is done with all of them
        store = connect(url, data_dir=tmp_path)
        upgrading = asyncio.create_task(store.upgrade())
        async with asyncio.timeout(20):
            while writer.execute(waits).fetchone() != (1,):
                await asyncio.sleep(0.02)
        writer.execute("SET lock_timeout = '20s'")
        await asyncio.to_thread(writer.execute, "UPDATE generations SET version = version")
        assert not upgrading.done()
        dump.rollback()
        await upgrading
    assert (await store.check()).current == HEAD


async def test_a_schema_newer_than_the_program_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.database()
    store = connect(url, data_dir=tmp_path)
    await store.upgrade()
    with psycopg.connect(url, autocommit=True) as opened_by_hand:
        opened_by_hand.execute("UPDATE alembic_version SET version_num = '9999', works_from = NULL")
    assert "newer" in (await store.check()).findings[0]
    with pytest.raises(Misconfigured, match="9999"):
        await store.open()


@pytest.mark.parametrize(
    "url", ["postgresql://loquent@127.0.0.1:{port}/nowhere", "postgresql://127.0.0.1/x?patience=0"]
)
async def test_a_database_that_is_not_there_stops_the_start(postgres: PostgresServer, tmp_path: Path, url: str) -> None:
    with pytest.raises(Misconfigured):
        await connect(url.format(port=postgres.port), data_dir=tmp_path).open()


async def test_a_server_that_is_away_is_unavailable_without_its_password(tmp_path: Path) -> None:
    store = connect("postgresql://ann:hunter22@127.0.0.1:1/x", data_dir=tmp_path)
    with pytest.raises(Unavailable) as away:
        await store.open()
    assert "hunter22" not in away.value.message


async def test_a_killed_server_loses_nothing_that_was_told_and_is_found_again(
    mortal: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "loquent.store")
    async with opened(mortal.database(), tmp_path) as store:
        told: list[str] = []

        async def write() -> None:
            made = generation()
            with suppress(Unavailable):
                await store.write(Add(made), Add(content(made.id)))
                told.append(made.id)

        writing = [asyncio.create_task(write()) for _ in range(50)]
        await writing[0]
        mortal.stop(signal.SIGKILL)
        more = [asyncio.create_task(write()) for _ in range(50)]
        await asyncio.gather(*writing, *more)
        with pytest.raises(Unavailable):
            await store.get(Generation, told[0])
        with pytest.raises(Unavailable):
            await store.ready()
        mortal.start()
        async with asyncio.timeout(20):
            await again(store)
        assert [each.getMessage() for each in caplog.records if each.name == "loquent.store"] == [*OUTAGE]
        assert len(await store.get(Generation, *told)) == len(await store.get(Content, *told)) == len(told) > 0


async def test_a_restart_while_nothing_is_asked_costs_nobody_anything(mortal: PostgresServer, tmp_path: Path) -> None:
    async with opened(mortal.database(), tmp_path) as store:
        made = generation()
        await store.write(Add(made))
        await store.get(Generation, made.id)
        mortal.stop()
        mortal.start()
        await store.write(Add(content(made.id)))
        assert await store.get(Generation, made.id)


async def test_a_frozen_server_is_given_up_and_found_again(
    mortal: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "loquent.store")
    async with opened(f"{mortal.database()}?patience=1", tmp_path) as store:
        made = generation()
        await store.write(Add(made))
        mortal.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):
                for _ in range(2):
                    with pytest.raises(Unavailable):
                        await store.get(Generation, made.id)
                    with pytest.raises(Unavailable):
                        await store.write(Add(user("late")))
        finally:
            mortal.signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            await again(store)
        assert [each.getMessage() for each in caplog.records if each.name == "loquent.store"] == [*OUTAGE]
        assert (await only(store, Generation, made.id)).created_at >= Moment(0)


OUTAGE = ("the database cannot be used", "the database is back")
"""What the log says of one, however many ask meanwhile."""


async def again(store: Keeper) -> None:
    """Return when it can be used again."""
    while True:
        with suppress(Unavailable):
            await store.ready()
            return
        await asyncio.sleep(0.1)
