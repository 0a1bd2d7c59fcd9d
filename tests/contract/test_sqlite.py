"""What only SQLite can do wrong: full disks, locks, kills, two processes, schemas from elsewhere."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from loquent import stores
from loquent.domain import ids
from loquent.domain.clock import Moment
from loquent.domain.errors import Invalid, Misconfigured, OutOfSpace, Stale, Taken, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import Content
from loquent.domain.records import RECORDS
from loquent.domain.usage import UsageDay
from loquent.domain.users import User
from loquent.ports.store import Add, Remove, Replace
from loquent.stores import Keeper
from loquent.stores.migrations import HEAD
from loquent.stores.rows import rows_of
from loquent.stores.sql_statements import Statements
from loquent.stores.sqlite_link import PRAGMAS, connection
from loquent.stores.sqlite_threads import Threads

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(folder: Path, options: str = "") -> AsyncIterator[Keeper]:
    store = stores.connect(f"sqlite:///{folder}/loquent.db{options}", data_dir=folder)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def content(n: int, characters: int = 20_000) -> Content:
    return Content(f"gen_{n:04}", 0, "t", "a", {}, "x" * characters)


def user(name: str) -> User:
    return User(ids.new("usr"), 0, "t", name, None, "hash", True, Moment(5))


def beside(folder: Path) -> sqlite3.Connection:
    """Another program with the same file."""
    return sqlite3.connect(folder / "loquent.db", isolation_level=None)


async def count(store: Keeper) -> int:
    return await store.count(Content, "all", {})


# --- trap: a full disk inside a group undoes all of it, and what comes later in the group must not run by itself


async def test_on_a_full_disk_every_write_tells_the_truth_and_space_heals(tmp_path: Path) -> None:
    async with opened(tmp_path, "?max_page_count=400") as store:
        records = [content(n) for n in range(200)]
        outcomes = await asyncio.gather(*(store.write(Add(one)) for one in records), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), OutOfSpace}
        assert OutOfSpace in {type(outcome) for outcome in outcomes}
        rest = []
        for one in records:  # one by one: until it is full
            try:
                await store.write(Add(one))
                rest.append(one.id)
            except (Taken, Unavailable):
                continue
        kept = {one.id for one in await store.get(Content, *(one.id for one in records))}
        told = {one.id for one, outcome in zip(records, outcomes, strict=True) if outcome is None} | set(rest)
        assert kept == told
        assert 20 < len(kept) < 200
        for one in await store.get(Content, *sorted(kept)[:10]):
            await store.write(Remove(one))
        await store.write(Add(content(999)))
        await store.ready()
    async with opened(tmp_path) as store:
        assert (await store.check()).findings == ()
        assert await count(store) == len(kept) - 9


async def test_changes_that_do_not_fit_any_more_undo_the_whole_group(tmp_path: Path) -> None:
    async with opened(tmp_path, "?max_page_count=400") as store:
        records = [evolve(content(n, 10), version=1) for n in range(200)]
        await asyncio.gather(*(store.write(Add(one)) for one in records))
        writes = [store.write(Replace(one, evolve(one, output="y" * 20_000))) for one in records]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert OutOfSpace in {type(outcome) for outcome in outcomes}
        now = await store.get(Content, *(one.id for one in records))
        kept = {one.id for one in now if one.version == 2}
        assert kept == {one.id for one, outcome in zip(records, outcomes, strict=True) if outcome is None}
        await store.write(Remove(now[-1]))


async def test_small_writes_beside_one_that_does_not_fit_are_kept_or_told(tmp_path: Path) -> None:
    async with opened(tmp_path, "?max_page_count=400") as store:
        records = [content(n, 10 if n % 7 else 3_000_000) for n in range(70)]
        outcomes = await asyncio.gather(*(store.write(Add(one)) for one in records), return_exceptions=True)
        kept = {one.id for one in await store.get(Content, *(one.id for one in records))}
        assert kept == {one.id for one, outcome in zip(records, outcomes, strict=True) if outcome is None}


# --- trap: a conflict in the midst of a write, in a group


async def test_a_group_with_conflicts_in_its_midst_keeps_each_write_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write(Add(user("taken")))
        writes = []
        for n in range(60):
            name = "taken" if n % 3 == 0 else f"user{n}"
            writes.append(store.write(Add(content(n, 10)), Add(user(name))))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            assert isinstance(outcome, Taken) if n % 3 == 0 else outcome is None
        kept = {one.id for one in await store.get(Content, *(content(n).id for n in range(60)))}
        assert kept == {content(n).id for n in range(60) if n % 3}


# --- trap: a statement for SQLite alone is undone by itself, and the group goes on


async def test_stale_and_taken_single_changes_in_a_group_undo_themselves(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write(Add(content(0, 10)))
        [first] = await store.get(Content, content(0).id)
        old = evolve(first, version=7)
        writes = [store.write(change) for n in range(1, 20) for change in (Add(content(n, 5)), Replace(old, first))]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert outcomes[::2] == [None] * 19
        assert all(isinstance(outcome, Stale) for outcome in outcomes[1::2])
        assert await count(store) == 20


# --- locks


async def test_a_locked_database_is_unavailable_and_heals(tmp_path: Path) -> None:
    async with opened(tmp_path, "?busy_timeout=50") as store:
        with closing(beside(tmp_path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable):
                await store.write(Add(content(1)))
            with pytest.raises(Unavailable):
                await store.ready()
            assert await count(store) == 0
            other.execute("ROLLBACK")
        await store.ready()
        await store.write(Add(content(1)))
        assert await count(store) == 1


REFUSED = """
import asyncio, resource, sys
from pathlib import Path
from loquent import stores
from loquent.domain.errors import Unavailable
from loquent.domain.generations import Content
from loquent.ports.store import Add

async def main():
    store = stores.connect(f"sqlite:///{sys.argv[1]}/loquent.db", data_dir=Path(sys.argv[1]))
    await store.open()
    await store.write(Add(Content("gen_1", 0, "t", "a", {}, "")))
    assert await store.count(Content, "all", {}) == 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # no file may grow beyond
    writes = [store.write(Add(Content(f"gen_no_{n}", 0, "t", "a", {}, "x" * 9000))) for n in range(20)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable}, outcomes
    assert await store.count(Content, "all", {}) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await store.ready()
    await store.write(Add(Content("gen_2", 0, "t", "a", {}, "")))
    assert await store.count(Content, "all", {}) == 2
    await store.close()

asyncio.run(main())
"""


async def test_a_disk_that_refuses_the_commit_is_unavailable_and_heals(tmp_path: Path) -> None:
    assert run(REFUSED, tmp_path) == (0, "")


async def test_values_of_a_wrong_type_are_their_callers_fault_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        bad: Any = evolve(user("bad"), is_active={})
        good = [store.write(Add(user(f"good{n}"))) for n in range(10)]
        outcomes = await asyncio.gather(*good[:5], store.write(Add(bad)), *good[5:], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome] == [Invalid]
        with pytest.raises(OverflowError):
            await store.write(Add(evolve(bad, is_active=2**70)))
        await store.write(Add(user("after")))
        assert await store.count(User, "all", {}) == 11


async def test_two_event_loops_share_a_store(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:

        async def some(start: int) -> None:
            await asyncio.gather(*(store.write(Add(content(n, 10))) for n in range(start, start + 50)))
            assert len(await store.get(Content, *(content(n).id for n in range(start, start + 50)))) == 50

        await asyncio.gather(some(0), asyncio.to_thread(asyncio.run, some(100)), some(200))
        assert await count(store) == 150


async def test_a_loop_that_has_ended_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path, "?busy_timeout=3000") as store:

        async def leaves() -> None:
            asyncio.ensure_future(store.write(Add(content(1))))  # noqa: RUF006  # left behind on purpose
            await asyncio.sleep(0.01)

        with closing(beside(tmp_path)) as other:
            other.execute("BEGIN IMMEDIATE")
            await asyncio.to_thread(asyncio.run, leaves())
            writing = asyncio.create_task(store.write(Add(content(2))))
            await asyncio.sleep(0.01)
            other.execute("COMMIT")
            await writing


async def test_a_write_waits_for_a_short_lock(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with closing(beside(tmp_path)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(store.write(Add(content(1))))
            await asyncio.sleep(0.1)
            assert not writing.done()
            other.execute("COMMIT")
            await writing


async def test_two_open_stores_see_each_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as two:
        await asyncio.gather(*((one, two)[n % 2].write(Add(content(n, 10))) for n in range(100)))
        assert await count(one) == await count(two) == 100


async def test_it_commits_to_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path), opened(tmp_path) as store:
        await store.write(Add(content(1)))
        with closing(beside(tmp_path)) as other:
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with closing(connection(tmp_path / "loquent.db", PRAGMAS)) as made:
        assert made.execute("PRAGMA synchronous").fetchone() == (2,)
        assert made.execute("PRAGMA busy_timeout").fetchone() == (5000,)
        assert made.execute("PRAGMA foreign_keys").fetchone() == (1,)


# --- kills


def run(script: str, *arguments: str | Path) -> tuple[int, str]:
    """A script in a process of its own: how it ended, and what it complained of."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


WRITER = """
import asyncio, sys
from pathlib import Path
from loquent import stores
from loquent.domain.generations import Content
from loquent.domain.records import RECORDS
from loquent.domain.usage import UsageDay
from loquent.ports.store import Add, Bump

async def main():
    folder = Path(sys.argv[1])
    store = stores.connect(f"sqlite:///{folder}/loquent.db", data_dir=folder)
    await store.open()
    async def caller(name):
        for n in range(100_000):
            id = f"gen_{sys.argv[2]}_{name}_{n}"
            day = UsageDay("day", "t", "a", "2026-11-22", "m")
            await store.write(Add(Content(id, 0, "t", "a", {}, "x" * 500)), Bump(day, {"generations": 1}))
            print(id, flush=True)
    await asyncio.gather(*(caller(name) for name in range(8)))

asyncio.run(main())
"""


def told_until_killed(folder: Path, name: str, lines: int) -> list[str]:
    """The ids that a writer acknowledged before it was killed, after that many or soon after."""
    with subprocess.Popen([sys.executable, "-c", WRITER, folder, name], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        return told + [line.strip() for line in writer.stdout if line.endswith("\n")]


async def test_every_acknowledged_write_outlives_a_kill(tmp_path: Path) -> None:
    told = [id for turn in range(3) for id in told_until_killed(tmp_path, str(turn), 100 + turn * 77)]
    async with opened(tmp_path) as store:
        assert len(told) >= 300
        assert {one.id for one in await store.get(Content, *told)} == set(told)
        assert (await store.check()).findings == ()
        [day] = await store.get(UsageDay, "day")
        assert day.generations == await count(store)  # each write whole, also those that nobody was told of


# --- the schema

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from loquent import stores

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if "CREATE TABLE usage_days" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(stores.upgrade(f"sqlite:///{sys.argv[1]}/loquent.db", Path(sys.argv[1])))
"""


async def test_a_killed_migration_starts_again_whole(tmp_path: Path) -> None:
    returned, said = run(KILLED, tmp_path)
    assert returned == -signal.SIGKILL, said
    with closing(beside(tmp_path)) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == []
    async with opened(tmp_path) as store:
        await store.write(Add(content(1)))
        assert await store.check() == stores.Checked(HEAD, HEAD)


OPENER = """
import asyncio, sys
from pathlib import Path
from loquent import stores
from loquent.domain.generations import Content
from loquent.ports.store import Add

async def main():
    store = stores.connect(f"sqlite:///{sys.argv[1]}/loquent.db", data_dir=Path(sys.argv[1]))
    await store.open()
    await store.write(Add(Content(f"gen_{sys.argv[2]}", 0, "t", "a", {}, "")))
    await store.close()

asyncio.run(main())
"""


async def test_processes_that_start_at_once_upgrade_once(tmp_path: Path) -> None:
    done = await asyncio.gather(*(asyncio.to_thread(run, OPENER, tmp_path, str(n)) for n in range(3)))
    assert done == [(0, "")] * 3
    async with opened(tmp_path) as store:
        assert await count(store) == 3


async def test_a_schema_newer_than_the_program_is_refused_in_one_line(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write(Add(content(1)))
    with closing(beside(tmp_path)) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999', works_from = NULL")
    [found] = (await stores.check(f"sqlite:///{tmp_path}/loquent.db", tmp_path)).findings
    assert ("use a newer Loquent" in found, "upgrade" in found) == (True, False), "it advises what will work"
    with pytest.raises(Misconfigured, match=r"loquent\.db has schema 9999.*newer Loquent") as refused:
        async with opened(tmp_path):
            pass
    assert "\n" not in refused.value.message
    checked = await stores.check(f"sqlite:///{tmp_path}/loquent.db", tmp_path)
    assert checked.current == "9999" and checked.findings
    with closing(beside(tmp_path)) as other:  # nothing was touched
        assert other.execute("SELECT count(*) FROM contents").fetchone() == (1,)


async def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    with closing(beside(tmp_path)) as other:
        other.execute("CREATE TABLE recipes (id)")
    with pytest.raises(Misconfigured, match="not Loquent's"):
        async with opened(tmp_path):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loquent.db").write_text("dear diary " * 100)
    with pytest.raises(Misconfigured, match="not a database"):
        async with opened(tmp_path):
            pass


async def test_a_dead_path_is_refused(tmp_path: Path) -> None:
    store = stores.connect(f"sqlite:///{tmp_path}/none/loquent.db", data_dir=tmp_path)
    with pytest.raises(Misconfigured, match=r"none/loquent\.db cannot be used"):
        await store.open()


def modes(folder: Path) -> dict[str, int]:
    return {each.name: each.stat().st_mode & 0o777 for each in folder.glob("loquent.db*")}


async def test_only_its_owner_may_read_a_new_database(tmp_path: Path) -> None:
    former = os.umask(0o022)
    try:
        async with opened(tmp_path) as store:
            await store.write(Add(content(1)))
            found = modes(tmp_path)
    finally:
        os.umask(former)
    assert found == dict.fromkeys(("loquent.db", "loquent.db-wal", "loquent.db-shm"), 0o600)


async def test_a_second_connection_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    """POSIX drops all of a process's locks on a file when it closes any handle on it."""
    async with opened(tmp_path) as store:
        await store.write(Add(content(1)))
        connection(tmp_path / "loquent.db", {}).close()
        others = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM contents'); c.close()"
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", others, f"{tmp_path}/loquent.db"], check=True)
        assert modes(tmp_path).keys() == {"loquent.db", "loquent.db-wal", "loquent.db-shm"}, "nobody took it for unused"


async def test_the_data_folder_is_made(tmp_path: Path) -> None:
    store = stores.connect(f"sqlite+aiosqlite:///{tmp_path}/data/loquent.db", data_dir=tmp_path / "data")
    await store.open()
    await store.close()
    assert (tmp_path / "data" / "loquent.db").exists()


async def test_check_says_what_is_wrong_and_makes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/loquent.db"
    checked = await stores.check(url, tmp_path)
    assert (checked.current, checked.head) == (None, HEAD)
    assert "store upgrade" in checked.findings[0]
    assert not (tmp_path / "loquent.db").exists()
    assert await stores.upgrade(url, tmp_path) == stores.Checked(HEAD, HEAD)
    async with opened(tmp_path) as store:
        await asyncio.gather(*(store.write(Add(content(n, 300))) for n in range(300)))
    file = tmp_path / "loquent.db"
    broken = bytearray(file.read_bytes())
    for at in range(4096 * 20, len(broken) - 4096, 4096):
        broken[at : at + 64] = b"\xff" * 64
    file.write_bytes(broken)
    (findings,) = [(await stores.check(url, tmp_path)).findings]
    assert findings


async def test_an_up_to_date_database_opens_without_alembic(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    script = OPENER + "\nassert 'alembic' not in sys.modules and 'sqlalchemy.orm' not in sys.modules"
    assert run(script, tmp_path, "1") == (0, "")


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///x?color=1", "sqlite:///x?busy_timeout=1;DROP"]
)
async def test_a_url_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        stores.connect(url, data_dir=tmp_path)
    assert "LOQUENT_STORE" in refused.value.message and "\n" not in refused.value.message


# --- growth: every list is read from its index, never sorted and never searched through


async def test_every_declared_order_and_key_is_read_from_its_index(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    statements = Statements(Threads.dialect)
    asked = []
    for spec in RECORDS.values():
        rows = rows_of(spec.type)
        asked += [statements.find(rows, key) for key in spec.unique]
        for order in spec.orders:
            for up, after, until in itertools.product((False, True), repeat=3):
                asked.append(statements.page(rows, order, upward=up, after=after, until=until))
            asked.append(statements.count(rows, order))
            if rows.version_at is not None:
                asked.append(
                    statements.take(
                        rows, order, tuple(name for name in rows.names if name not in ("id", "version"))[:1], ()
                    )
                )
    with closing(beside(tmp_path)) as other:
        for statement in asked:
            named = dict.fromkeys(statement.names, 1)
            lines = other.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement.values(named)).fetchall()
            plan = [line[-1] for line in lines]
            assert not any("TEMP B-TREE" in step for step in plan), (statement.sql, plan)
            whole = [step for step in plan if step.startswith("SCAN") and " USING " not in step]
            assert all(step.startswith(("SCAN (subquery", "SCAN anon_")) for step in whole), (statement.sql, plan)
