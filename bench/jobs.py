"""Jobs that wait 0.2 s each, over Redis: one worker process of Loquent beside Celery with two processes of its own.

Each has its worker idle, then is given all jobs at once; counted is from the first that is given until the last is
done. Loquent's are accepted durably and done with a record and its usage; the naive task counts one number up.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import redis
from celery import Celery
from tests.redis_server import redis_server

from bench.naive_jobs import DONE, TASK
from bench.report import Result
from bench.servers import ROOT, SERVER_CORE, pin, python
from loquent import settings
from loquent.domain.principals import Principal
from loquent.services.generations import Wanted
from loquent.wiring import build

OWNER = Principal("default", "usr_bench", "bench")
JOBS, SLOTS = 2_000, 512
NAIVE_JOBS, PROCESSES = 100, 2  # 2,000 would take it minutes, at the same rate
PROMPT = "[slow 0.2] [words 1] bench"
MODELS = '[[model]]\nname = "echo"\nengine = "echo"\nid = "echo"\n'
OWED = "SELECT count(*) FROM generations WHERE due_at IS NOT NULL"
LIMIT = 300.0  # seconds that a round may take


def run(folder: Path, rounds: int, say: Callable[[str], None]) -> tuple[list[Result], list[str]]:
    """The results of that many rounds, and what was wrong."""
    results: list[Result] = []
    wrong: list[str] = []
    for number in range(1, rounds + 1):
        place = folder / f"jobs-{number}"
        place.mkdir()
        with redis_server(place) as server:
            rows = {"loquent": _loquent(place, server.url, wrong), "celery prefork": _naive(place, server.url)}
        for row, per_second in rows.items():
            say(f"jobs: {row}: {per_second:.1f} a second")
            results.append({"part": "jobs", "row": row, "round": number, "per_second": per_second})
    return results, wrong


def _loquent(folder: Path, broker: str, wrong: list[str]) -> float:
    models = folder / "models.toml"
    models.write_text(MODELS)
    environ = {
        "LOQUENT_DATA_DIR": str(folder / "data"),
        "LOQUENT_MODELS": str(models),
        "LOQUENT_QUEUE": broker,
        "LOQUENT_JOB_SLOTS": str(SLOTS),
        "LOQUENT_LIMIT_GENERATIONS": "off",
    }
    command = python("loquent", "worker")
    with _worker(command, folder, environ, ready=lambda: (folder / "data" / "loquent.db.in-use").exists()):
        spent = asyncio.run(_spent(settings.read(environ)))
    done, owed = _select(folder, "SELECT sum(status = 'completed'), sum(due_at IS NOT NULL) FROM generations")
    [counted] = _select(folder, "SELECT sum(generations) FROM usage_days")
    if (done, owed, counted) != (JOBS, 0, JOBS):
        wrong.append(f"of {JOBS} jobs {done} are completed, {owed} owed and {counted} counted")
    return JOBS / spent


async def _spent(found: settings.Settings) -> float:
    """Seconds until all are done that are submitted now."""
    services = build(found)
    await services.open(works=False)
    try:
        await asyncio.sleep(3)  # the worker listens by now
        wanted = Wanted(kind="text", surface="bench", input={"prompt": PROMPT}, text=PROMPT)
        began = time.perf_counter()
        await asyncio.gather(*(services.generations.submit(OWNER, wanted) for _ in range(JOBS)))
        await asyncio.to_thread(_wait, lambda: not _select(found.data_dir.parent, OWED)[0])
        return time.perf_counter() - began
    finally:
        await services.close()


def _naive(folder: Path, broker: str) -> float:
    sender = Celery("bench", broker=broker, set_as_current=False)
    command = python("celery", "-A", "bench.naive_jobs", "worker", "-P", "prefork", "-c", PROCESSES, "-l", "WARNING")
    with redis.Redis.from_url(broker) as client:

        def done(count: int) -> bool:
            return int(client.get(DONE) or 0) >= count

        def ready() -> bool:
            return done(1)

        sender.send_task(TASK)
        with _worker(command, folder, {"BENCH_BROKER": broker}, ready=ready):
            began = time.perf_counter()
            for _ in range(NAIVE_JOBS):
                sender.send_task(TASK)
            _wait(lambda: done(NAIVE_JOBS + 1))
            return NAIVE_JOBS / (time.perf_counter() - began)


@contextmanager
def _worker(command: list[str], folder: Path, environ: dict[str, str], *, ready: Callable[[], bool]) -> Iterator[None]:
    """A worker on the servers' core, ended when the round is over."""
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: pin(SERVER_CORE),
        )
    try:
        _wait(lambda: ready() or process.poll() is not None)
        if process.poll() is not None:
            raise RuntimeError((folder / "worker.log").read_text(errors="replace")[-2000:])
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(over: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT
    while not over():
        if time.monotonic() > until:
            raise RuntimeError(f"not done within {LIMIT:.0f} s")
        time.sleep(0.01)


def _select(folder: Path, text: str) -> tuple[int, ...]:
    """One row of figures, as it is committed."""
    with closing(sqlite3.connect(f"{(folder / 'data' / 'loquent.db').as_uri()}?mode=ro", uri=True)) as store:
        row: tuple[int, ...] = store.execute(text).fetchone()
        return row
