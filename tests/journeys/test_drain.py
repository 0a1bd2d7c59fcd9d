"""A replica that is told to stop, with 20 streams and 10 jobs in its hands: nobody is cut off, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from daemon import free_ports
from journeys.cluster import FREE, Part
from journeys.processes import end_of
from postgres_server import PostgresServer
from redis_server import redis_server

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(180)]
OURS, THEIRS = "/api/v1/generations", "/v1/chat/completions"
STREAMS, JOBS, WORDS = 20, 10, 80
STOP = 3.0  # seconds that a stop gives
SHORT, ENDLESS = "[slow 0.05] [words 24] and so on", "[slow 0.05] [words 100000] and so on"
JOB = f"[slow 0.05] [words {WORDS}] job {{}} counts"
BACKGROUND = "mode = 'background'"
SHARED = {
    **FREE,
    "LOQUENT_SECRET": "a secret that all processes of this test share",
    "LOQUENT_JOB_SLOTS": str(JOBS),
    "LOQUENT_SWEEP_SECONDS": "0.5",
    "LOQUENT_CHECKPOINT_SECONDS": "0.2",
    "LOQUENT_STOP_SECONDS": str(STOP),
}


async def told(client: httpx2.AsyncClient, number: int) -> str:
    """All that a stream said, to its end: half of them are ours, and half of each would go on for ever."""
    prompt = ENDLESS if number % 4 < 2 else SHORT
    messages = [{"role": "user", "content": prompt}]
    path, more = ((OURS, {"prompt": prompt}), (THEIRS, {"model": "echo", "messages": messages}))[number % 2]
    async with client.stream("POST", path, json={**more, "stream": True}) as answer:
        assert answer.status_code == 200
        return "".join([piece async for piece in answer.aiter_text()])


async def comers(address: str, process: Any) -> Counter[str]:
    """What those are told who come, each on a connection of its own, until the process has ended."""
    seen: Counter[str] = Counter()
    while process.poll() is None:
        async with httpx2.AsyncClient(base_url=address, timeout=10) as client:
            try:
                answer = await client.post(OURS, json={"prompt": "hello"})
                assert answer.headers["connection"] == "close"
                assert answer.status_code == 200 or int(answer.headers["retry-after"]) > 0
                seen[str(answer.status_code)] += 1
                ready = await client.get("/api/v1/health/ready")
                seen[f"ready {ready.status_code}"] += 1
            except httpx2.ConnectError:
                seen["refused"] += 1
            except (httpx2.ReadError, httpx2.RemoteProtocolError):
                seen["cut off"] += 1
        await asyncio.sleep(0.05)
    return seen


def select(database: str, text: str) -> list[tuple[Any, ...]]:
    """Rows of the database, as they are committed."""
    with psycopg.connect(database) as opened:
        return opened.execute(text.encode()).fetchall()


async def until(database: str, text: str, seconds: float, *, count: int = JOBS) -> float:
    """Seconds until so many generations are like that."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while select(database, f"SELECT count(*) FROM generations WHERE {text}") != [(count,)]:  # noqa: S608
            await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize(("server", "queue", "delay"), [("granian", "celery", 1.0), ("uvicorn", "local", 0.0)])
async def test_a_stop_with_20_streams_and_10_jobs(
    tmp_path: Path, postgres: PostgresServer, server: str, queue: str, delay: float
) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as redis:
        database = postgres.database()
        own = {"LOQUENT_STORE": database, "LOQUENT_SERVER": server, "LOQUENT_STOP_DELAY": str(delay), **SHARED}
        if queue == "celery":
            own |= {"LOQUENT_QUEUE": redis.url}
        parts = [
            Part(name, tmp_path / name, {**own, "LOQUENT_PORT": str(port)}, address=f"http://127.0.0.1:{port}")
            for name, port in zip(("goes", "stays"), free_ports(2), strict=True)
        ]
        try:
            await stop(parts[0], parts[1], database, delay)
        finally:
            for part in parts:
                if part.process is not None:
                    part.process.kill()
                    part.process.wait()


async def stop(goes: Part, stays: Part, database: str, delay: float) -> None:
    await asyncio.gather(goes.start(), stays.start())
    assert goes.process is not None
    assert stays.process is not None
    stays.send(signal.SIGSTOP)  # so that the other has all the jobs
    async with httpx2.AsyncClient(base_url=goes.address, timeout=60) as client:
        ids = []
        for number in range(JOBS):
            answer = await client.post(OURS, json={"prompt": JOB.format(number), "background": True})
            ids.append(answer.json()["id"])
        await until(database, f"lease_by LIKE '%:{goes.process.pid}'", 20)
        stays.send(signal.SIGCONT)
        streams = [asyncio.create_task(told(client, number)) for number in range(STREAMS)]
        await until(database, "status = 'processing'", 20, count=STREAMS + JOBS)
        assert (await client.get("/api/v1/health/ready")).status_code == 200
        began = time.monotonic()
        goes.send(signal.SIGTERM)
        coming = asyncio.create_task(comers(goes.address, goes.process))
        elsewhere = await until(database, f"lease_by LIKE '%:{stays.process.pid}'", 20)
        drains = goes.process.poll() is None
        code = await end_of(goes.process, 30)
        took = time.monotonic() - began
        ends = await asyncio.gather(*streams)
    seen = await coming
    await until(database, f"status = 'completed' AND {BACKGROUND}", 60)
    print(f"exit {code} in {took:.2f} s, jobs elsewhere in {elsewhere:.2f} s, others saw {dict(seen)}")
    assert code == 0, goes.log()[-2000:]
    assert took < delay + STOP + 8
    for number, end in enumerate(ends):
        last = end.strip().rsplit("\n\n", 1)[-1]
        if number % 2:
            assert 'data: {"error":{' in end if number % 4 < 2 else last == "data: [DONE]", end[-300:]
        else:
            assert ("event: error" if number % 4 < 2 else "event: done") in last, end[-300:]
    columns = "id, output, attempts FROM generations JOIN contents USING (id)"
    rows = select(database, f"SELECT {columns} WHERE {BACKGROUND}")
    outputs = (" ".join((f"job {number} counts " * WORDS).split()[:WORDS]) for number in range(JOBS))
    assert sorted(rows) == sorted((id, output, 1) for id, output in zip(ids, outputs, strict=True))
    assert drains  # at once: neither the end of the drain nor a lease is waited for
    assert seen["ready 200"] == 0
    if not delay:  # who has just come through the door when it is shut: it is what a delay is for
        assert seen.pop("cut off", 0) <= 1
    assert seen.keys() <= ({"200", "ready 503", "refused"} if delay else {"503", "ready 503", "refused"}), seen
    assert seen["200" if delay else "503"] > 0
