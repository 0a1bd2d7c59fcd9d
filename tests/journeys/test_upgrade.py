"""An upgrade that nobody notices, and a migration that is killed in its midst: started again, all is whole."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from daemon import free_ports
from journeys.cluster import FREE, Part
from journeys.processes import end_of, start
from journeys.upgrade import next_version, roll, this_version
from postgres_server import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(180)]
OURS = "/api/v1/generations"


async def test_two_replicas_are_replaced_under_50_requests_a_second_and_none_fails(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    callers = await roll(tmp_path, postgres)
    print(callers)
    assert callers.failed == []
    assert min(callers.asked.values()) > 50


async def test_on_sqlite_a_killed_migration_leaves_all_as_it_was_and_both_versions_work_on_what_it_makes(
    tmp_path: Path,
) -> None:
    before, after = this_version(), next_version(tmp_path)
    ports = free_ports(2)
    old, new = (
        Part(name, tmp_path, {**FREE, "LOQUENT_PORT": str(port)}, address=f"http://127.0.0.1:{port}")
        for name, port in zip(("old", "new"), ports, strict=True)
    )
    its = {"PYTHONPATH": str(after.source)}

    def schema() -> str:
        with closing(sqlite3.connect(tmp_path / "data" / "loquent.db")) as opened:
            [(found,)] = opened.execute("SELECT version_num FROM alembic_version").fetchall()
            columns = {row[1] for row in opened.execute("PRAGMA table_info(contents)")}
        assert ("colour" in columns) == (found == after.schema)
        return str(found)

    async with httpx2.AsyncClient(timeout=30, verify=False) as client:

        async def made(part: Part) -> str:
            answer = await client.post(part.address + OURS, json={"prompt": "hello"})
            assert answer.status_code == 200, answer.text
            return str(answer.json()["id"])

        try:
            await old.start()
            ids = [await made(old)]
            dying = start(tmp_path, "worker", LOQUENT_FAILPOINTS="mid-migration", **FREE, **its)
            assert await end_of(dying) == -signal.SIGKILL
            assert schema() == before.schema
            ids.append(await made(old))
            await new.start(**its)
            assert schema() == after.schema
            ids += [await made(old), await made(new)]
            assert await old.end() == 0
            await old.start()  # as after a crash, or on the way back
            ids += [await made(old), await made(new)]
            for part in (old, new):
                for id in ids:
                    assert (await client.get(f"{part.address}{OURS}/{id}")).json()["status"] == "completed"
        finally:
            for part in (old, new):
                if part.process is not None:
                    part.process.kill()
                    part.process.wait()
