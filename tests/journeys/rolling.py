"""All servers of one port replaced, one after the other, under requests of all kinds: none fails, and no job is lost.

``python -m journeys.rolling`` (from ``tests/``) does it again and again, with each server; test_workers.py once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from daemon import free_ports
from journeys.processes import end_of, is_up, start
from loquent.services.health import SECONDS as BOUND

OURS = "/api/v1/generations"
COMMAND = "serve --workers 2"
SECONDS = 120  # that one time may take


class Several:
    """A parent and its two servers, on one folder and one SQLite file."""

    def __init__(self, folder: Path, port: int, **environ: str) -> None:
        self.address = f"http://127.0.0.1:{port}"
        quick = {"LOQUENT_PORT": str(port), "LOQUENT_LEASE_SECONDS": "2", "LOQUENT_SWEEP_SECONDS": "0.2"}
        self.process: subprocess.Popen[bytes] = start(folder, COMMAND, **quick, **environ)
        self._log = folder / f"{COMMAND}.log"

    @property
    def servers(self) -> list[psutil.Process]:
        """Those that there are now."""
        return psutil.Process(self.process.pid).children()

    def said(self, word: str) -> list[str]:
        """The lines with that word in them."""
        return [line for line in self._lines() if f'"{word}"' in line]

    def told(self, *messages: str) -> list[str]:
        """Which of them were logged, in their order."""
        lines = [json.loads(line) for line in self._lines() if line.startswith("{")]
        lines.sort(key=lambda line: line["time"])  # each process writes its own when it comes to it
        return [line["event"] for line in lines if line["event"] in messages]

    def _lines(self) -> list[str]:
        """Those that are whole."""
        return self._log.read_text().rpartition("\n")[0].splitlines()

    async def until_serving(self, count: int) -> None:
        """So many have said that they do."""
        assert await is_up(self.process, self.address), self._log.read_text()
        async with asyncio.timeout(60):
            while len(self.said("serving")) < count:
                await asyncio.sleep(0.05)

    async def replace(self) -> None:
        """All of them, to the last one's end."""
        before = len(self.told("replaced"))
        self.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(SECONDS):
            while len(self.told("replaced")) == before:
                assert not self.said("error")
                await asyncio.sleep(0.1)


@asynccontextmanager
async def asked(address: str, *, callers: int, pause: float = 0.0) -> AsyncIterator[Counter[str]]:
    """What so many callers are answered meanwhile: a third go on on a connection while it is kept."""
    seen: Counter[str] = Counter()
    is_over = asyncio.Event()

    async def ask(headers: dict[str, str]) -> None:
        async with httpx2.AsyncClient(base_url=address, timeout=60, headers=headers) as client:
            while not is_over.is_set():
                try:
                    seen[f"asked {(await client.post(OURS, json={'prompt': 'hello'})).status_code}"] += 1
                    began = time.monotonic()
                    ready = (await client.get("/api/v1/health/ready")).status_code
                    if time.monotonic() - began < BOUND:  # or it says that the database did not answer in time
                        seen[f"ready {ready}"] += 1
                except httpx2.HTTPError as error:
                    seen[f"{type(error).__name__} {headers}"] += 1
                await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(ask({"connection": "close"} if number % 3 else {}))
        yield seen
        is_over.set()


@asynccontextmanager
async def scraped(address: str) -> AsyncIterator[None]:
    """Meanwhile no counter of any process goes back, and those that are replaced are told of while they serve on."""
    last: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    most = 0
    is_over = asyncio.Event()

    async def scrape() -> None:
        nonlocal most
        async with httpx2.AsyncClient(base_url=address, timeout=60, headers={"connection": "close"}) as client:
            while not is_over.is_set():
                page = text_string_to_metric_families((await client.get("/metrics")).text)
                counted = [each for family in page if family.type == "counter" for each in family.samples]
                for each in counted:
                    if each.name.endswith("_total"):
                        series = each.name, frozenset(each.labels.items())
                        assert each.value >= last.get(series, 0), (each, last[series])
                        last[series] = each.value
                most = max(most, len({each.labels["process"] for each in counted}))
                await asyncio.sleep(0.3)  # those that are replaced serve on for a second

    async with asyncio.TaskGroup() as group:
        group.create_task(scrape())
        yield
        is_over.set()
    assert most > 2


async def streamed(client: httpx2.AsyncClient) -> str:
    """All of a stream that takes longer than it takes until its server is told to end."""
    body = {"prompt": "[slow 0.02] [words 150] and so on", "stream": True}
    async with client.stream("POST", OURS, json=body) as answer:
        return "".join([piece async for piece in answer.aiter_text()])


async def roll(several: Several, *, times: int = 1, callers: int = 4, pause: float = 0.05) -> Counter[str]:
    """What was answered; raises AssertionError where anything failed."""
    async with httpx2.AsyncClient(base_url=several.address, timeout=60) as client:
        body = {"prompt": "[slow 0.02] [words 200] a job", "background": True}
        ids = [(await client.post(OURS, json=body)).json()["id"] for _ in range(4)]
        async with asked(several.address, callers=callers, pause=pause) as seen:
            for _ in range(times):
                streams = [asyncio.create_task(streamed(client)) for _ in range(4)]
                await asyncio.sleep(0.2)
                async with scraped(several.address):
                    await several.replace()
                assert all(["event: done" in await stream for stream in streams])
        for id in ids:
            while (found := (await client.get(f"{OURS}/{id}")).json())["status"] != "completed":
                assert found["status"] in ("pending", "processing")
                await asyncio.sleep(0.05)
    assert set(seen) == {"asked 200", "ready 200"}, seen
    return seen


async def main(times: int) -> None:
    """With each server."""
    for server, port in zip(("granian", "uvicorn"), free_ports(2), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            several = Several(Path(folder), port, LOQUENT_SERVER=server, LOQUENT_LOG_FORMAT="json")
            try:
                await several.until_serving(2)
                print(server, dict(await roll(several, times=times, callers=16, pause=0.0)))
            finally:
                several.process.send_signal(signal.SIGTERM)
                assert await end_of(several.process, 60) == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    asyncio.run(main(parser.parse_args().times))
