"""Two workers on one broker, of `loquent worker` and of Celery's own command, killed again and again: none is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from brokers import KILLED, Broker
from built import ANN, opened, wanted
from journeys.processes import end_of, start
from loquent.domain.generations import Generation
from loquent.wiring import Services
from redis_server import redis_server
from serving import served

pytestmark = [pytest.mark.anyio, pytest.mark.journey]
WORKERS = (("loquent", "worker"), ("celery", "-A loquent.worker worker --loglevel WARNING"))
JOBS, KILLS = 40, 2
WORDS = 100  # of an answer, each a fiftieth of a second: a worker that starts finds work that another has left
QUICK = {
    "LOQUENT_LEASE_SECONDS": "1.5",
    "LOQUENT_SWEEP_SECONDS": "1",
    "LOQUENT_CHECKPOINT_SECONDS": "0.2",
    "LOQUENT_MAX_ATTEMPTS": "100",
    "LOQUENT_STOP_SECONDS": "2",
    "LOQUENT_JOB_SLOTS": "8",
}


def select(folder: Path, text: str) -> list[Any]:
    """Rows of the database, as they are committed."""
    file = folder / "data" / "loquent.db"
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=10)) as store:
        return store.execute(text).fetchall()


async def until(folder: Path, count: int, where: str, seconds: float = 100) -> None:
    """Return as soon as so many generations are like that."""
    async with asyncio.timeout(seconds):
        while select(folder, f"SELECT count(*) FROM generations WHERE {where}")[0][0] < count:  # noqa: S608
            await asyncio.sleep(0.05)


async def submit(services: Services, number: int, *, words: int = WORDS) -> str:
    """The id of one more job, which says its number."""
    begun = await services.generations.submit(ANN, wanted(f"[slow 0.02] [words {words}] job {number} counts"))
    return begun.generation.id


@pytest.mark.timeout(240)
async def test_jobs_outlive_the_kills_of_their_two_workers(tmp_path: Path) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    with redis_server(tmp_path) as server:
        common = {"LOQUENT_QUEUE": server.url, "LOQUENT_LIMIT_GENERATIONS": "off", **QUICK}

        def begin(which: int) -> subprocess.Popen[bytes]:
            module, command = WORKERS[which]
            processes.append(start(tmp_path, command, module=module, **common))
            return processes[-1]

        try:
            store = {"LOQUENT_STORE": f"sqlite:///{tmp_path}/data/loquent.db"}
            async with opened(tmp_path, works=False, **store, **common) as services:
                workers = [begin(0), begin(1)]
                ids = [await submit(services, number) for number in range(JOBS - JOBS // (KILLS + 1) * KILLS)]
                for worker in workers:
                    await until(tmp_path, 1, f"lease_by LIKE '%:{worker.pid}'")  # both have begun
                for kill in range(KILLS):
                    ids += [
                        await submit(services, number) for number in range(len(ids), len(ids) + JOBS // (KILLS + 1))
                    ]
                    which = kill % 2
                    await until(tmp_path, 1, f"status = 'processing' AND lease_by LIKE '%:{workers[which].pid}'")
                    workers[which].kill()
                    await end_of(workers[which])
                    workers[which] = begin(which)
                await until(tmp_path, JOBS, "status IN ('completed', 'failed', 'cancelled')")
                for worker in workers:
                    worker.send_signal(signal.SIGTERM)
                assert [await end_of(worker, 30) for worker in workers] == [0, 0]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    rows = dict(
        select(tmp_path, "SELECT id, output FROM generations JOIN contents USING (id) WHERE status = 'completed'")
    )
    assert rows == {
        id: " ".join(itertools.islice(itertools.cycle(("job", str(number), "counts")), WORDS))
        for number, id in enumerate(ids)
    }
    assert select(tmp_path, "SELECT sum(generations) FROM usage_days") == [(JOBS,)]  # one result each
    assert select(tmp_path, "SELECT sum(attempts) FROM generations")[0][0] > JOBS  # the kills cost something


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", KILLED, indirect=True)
async def test_both_workers_hear_again_after_their_broker_was_killed(tmp_path: Path, broker: Broker) -> None:
    """Nobody looks by himself here for ten minutes: what is taken up was rung for."""
    common = {"LOQUENT_QUEUE": broker.url, "LOQUENT_STORE": f"sqlite:///{tmp_path}/data/loquent.db"}
    common |= {"LOQUENT_SWEEP_SECONDS": "600", "LOQUENT_JOB_SLOTS": "1", "LOQUENT_CHECKPOINT_SECONDS": "0.2"}
    workers: list[subprocess.Popen[bytes]] = []
    ids: list[str] = []

    async def heard_by_both(services: Services) -> None:
        since = len(ids)
        taken: set[str] = set()
        async with asyncio.timeout(90):
            while len(taken) < len(workers):
                began = time.monotonic()
                ids.append(await submit(services, len(ids), words=10))
                assert time.monotonic() - began < 5
                await asyncio.sleep(0.1)
                rows = await services.store.get(Generation, *ids[since:])
                taken |= {each.lease_by for each in rows if each.lease_by}

    try:
        async with opened(tmp_path, works=False, LOQUENT_LIMIT_GENERATIONS="off", **common) as services:
            workers += [start(tmp_path, command, module=module, **common) for module, command in WORKERS]
            await heard_by_both(services)
            await until(tmp_path, len(ids), "status = 'completed'")  # so that both wait, and nothing but a ring helps
            broker.kill()
            ids += [await submit(services, number, words=10) for number in range(len(ids), len(ids) + 3)]
            await asyncio.sleep(1)
            await asyncio.to_thread(broker.start)
            await heard_by_both(services)
            await until(tmp_path, len(ids), "status = 'completed'")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert select(tmp_path, "SELECT sum(generations) FROM usage_days") == [(len(ids),)]


async def test_celerys_command_without_a_broker_or_with_processes_says_what_helps(tmp_path: Path) -> None:
    process = start(tmp_path, "-A loquent.worker worker", module="celery", LOQUENT_QUEUE="local:")
    assert await end_of(process) == 2
    [said] = (tmp_path / "-A loquent.worker worker.log").read_text().splitlines()
    assert said.startswith("loquent: Celery needs a broker: set LOQUENT_QUEUE or CELERY_BROKER_URL")
    with redis_server(tmp_path) as server:
        process = start(tmp_path, "-A loquent.worker worker -P processes", module="celery", LOQUENT_QUEUE=server.url)
        assert await end_of(process) != 0
    assert "say --pool threads" in (tmp_path / "-A loquent.worker worker -P processes.log").read_text()


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"LOQUENT_STORE": "memory:"}, "LOQUENT_STORE holds memory"),  # told where the worker is put together
        ({"LOQUENT_STORE": "sqlite:///{folder}/broken.db"}, "broken.db cannot be used"),  # where it is opened
    ],
)
async def test_settings_that_cannot_be_used_end_celerys_command_with_one_line(
    tmp_path: Path, environ: dict[str, str], why: str
) -> None:
    (tmp_path / "broken.db").write_text("a letter to a friend" * 100)
    given = {name: value.format(folder=tmp_path) for name, value in environ.items()}
    with redis_server(tmp_path) as server:
        given |= {
            "LOQUENT_QUEUE": server.url,
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        process = start(tmp_path, "-A loquent.worker -q worker", module="celery", **given)
        assert await end_of(process) == 2
    [said] = (tmp_path / "-A loquent.worker -q worker.log").read_text().splitlines()
    assert said.startswith("loquent: ")
    assert why in said


async def test_under_celerys_command_the_log_is_ours_with_the_reason_why_a_job_failed(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/data/loquent.db"
    with redis_server(tmp_path) as server:
        common = {"LOQUENT_QUEUE": server.url, "LOQUENT_STORE": store, "LOQUENT_MAX_ATTEMPTS": "1"}
        process = start(tmp_path, "-A loquent.worker worker", module="celery", LOQUENT_LOG_FORMAT="json", **common)
        try:
            async with opened(tmp_path, works=False, **common) as services:
                await services.generations.submit(ANN, wanted("[fail] no more"))
                await until(tmp_path, 1, "status = 'failed'")
            process.send_signal(signal.SIGTERM)
            assert await end_of(process) == 0
        finally:
            process.kill()
            process.wait()
    lines = [json.loads(line) for line in (tmp_path / "data" / "app.log").read_text().splitlines()]
    said = {line["event"]: line for line in lines}
    assert said["job ended with a fault"]["code"] == "engine_failed"
    assert said["job ended with a fault"]["why"]
    assert [each for each in said if each in ("taking jobs", "stopping", "stopped")] == [
        *("taking jobs", "stopping", "stopped")
    ]
    printed = (tmp_path / "-A loquent.worker worker.log").read_text().splitlines()
    assert [line for line in printed if line.startswith("{")] == (
        tmp_path / "data" / "app.log"
    ).read_text().splitlines()


async def test_a_server_that_runs_no_jobs_rings_and_leaves_them(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        quick = {"LOQUENT_QUEUE": server.url, "LOQUENT_SWEEP_SECONDS": "0.1"}
        with served(tmp_path, LOQUENT_SERVE_JOBS="off", **quick) as found:
            async with httpx2.AsyncClient(base_url=found.url) as client:
                answer = await client.post("/api/v1/generations", json={"prompt": "hello", "background": True})
                assert answer.status_code == 202
                async with asyncio.timeout(20):
                    while server.waiting() != 1:
                        await asyncio.sleep(0.05)
                assert (await client.get(answer.headers["location"])).json()["status"] == "pending"
