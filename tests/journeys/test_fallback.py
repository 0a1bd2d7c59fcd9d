"""Three engines, killed one after the other under fifty clients: who is answered, how quickly who is not, and again."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from daemon import free_port
from serving import Served, served

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
CHAIN = ("one", "two", "three")
CLIENTS = 50
CALM = 0.8  # seconds between two deaths: several answers for each client
PATIENCE = 40.0  # seconds for what takes some; a slow machine is no fault
ROW = """
[[model]]
name = "{name}"
engine = "openai"
id = "bench"
url = "http://127.0.0.1:{port}/v1"
fallback = {fallback}
timeouts = {{total = 30, first = 10, idle = 10, connect = 5}}
"""


class Engine:
    """A server that speaks OpenAI's wire, in a process of its own, always on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["-m", "bench.upstream", "--port", str(self.port), "--chunks", "10", "--rate", "25"]
        self._process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def is_up(self) -> None:
        async with asyncio.timeout(PATIENCE), httpx2.AsyncClient(verify=False) as client:
            while True:
                try:
                    await client.get(f"http://127.0.0.1:{self.port}/v1/models")
                    return
                except httpx2.HTTPError:
                    await asyncio.sleep(0.02)


@contextmanager
def started(folder: Path) -> Iterator[tuple[Served, list[Engine]]]:
    """Loquent over the chain, and the engines of it."""
    engines = [Engine() for _ in CHAIN]
    with ExitStack() as ends:
        for engine in engines:
            engine.start()
            ends.callback(engine.kill)
        rows = folder / "models.toml"
        rows.write_text(
            "".join(
                ROW.format(name=name, port=engine.port, fallback=json.dumps(CHAIN[number + 1 : number + 2]))
                for number, (name, engine) in enumerate(zip(CHAIN, engines, strict=True))
            )
        )
        yield ends.enter_context(served(folder)), engines


class Clients:
    """Fifty who ask again and again, each other one for streams; ``seen`` counts what came of it."""

    def __init__(self, url: str) -> None:
        self.seen: Counter[str] = Counter()
        self._url = url
        self._stops = False

    async def run(self) -> None:
        limits = httpx2.Limits(max_connections=CLIENTS)
        async with httpx2.AsyncClient(base_url=self._url, timeout=PATIENCE, limits=limits, verify=False) as client:
            await asyncio.gather(*(self._ask_on(client, streams=number % 2 == 0) for number in range(CLIENTS)))

    def stop(self) -> None:
        self._stops = True

    async def until(self, claim: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not claim():
                await asyncio.sleep(0.02)

    async def until_answered(self, times: int) -> None:
        """So many more in either way."""
        wanted = {kind: self.seen[kind] + times for kind in ("whole", "stream")}
        await asyncio.sleep(CALM)
        await self.until(lambda: all(self.seen[kind] >= count for kind, count in wanted.items()))

    async def _ask_on(self, client: httpx2.AsyncClient, *, streams: bool) -> None:
        while not self._stops:
            came = await (streamed(client) if streams else whole(client))
            self.seen[came] += 1
            await asyncio.sleep(0.01 if came in ("whole", "stream") else 0.1)


def body(*, stream: bool) -> dict[str, object]:
    return {"model": "one", "messages": [{"role": "user", "content": "hello"}], "stream": stream}


async def whole(client: httpx2.AsyncClient) -> str:
    answer = await client.post("/v1/chat/completions", json=body(stream=False))
    if answer.status_code != 200:
        return refusal(answer)
    return "whole" if answer.json()["choices"][0]["finish_reason"] == "stop" else "a broken answer"


async def streamed(client: httpx2.AsyncClient) -> str:
    async with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        if answer.status_code != 200:
            await answer.aread()
            return refusal(answer)
        events = [line[6:] async for line in answer.aiter_lines() if line.startswith("data: ")]
    if events[-1] == "[DONE]":
        return "stream" if json.loads(events[-2])["choices"][0]["finish_reason"] == "stop" else "a broken stream"
    return "cut" if "error" in json.loads(events[-1]) else "a stream without an end"


def refusal(answer: httpx2.Response) -> str:
    """The status, and whether it says when to come again."""
    return f"{answer.status_code}" + (" come again" if int(answer.headers.get("retry-after", 0)) > 0 else "")


async def answered_by(client: httpx2.AsyncClient) -> str | None:
    """Who answers now; None: nobody."""
    answer = await client.post("/v1/chat/completions", json=body(stream=False))
    if answer.status_code != 200:
        return None
    kept = await client.get(f"/api/v1/generations/{answer.headers['x-loquent-generation']}")
    return str(kept.json()["answered_by"])


async def seconds_to_refuse(client: httpx2.AsyncClient, times: int) -> list[float]:
    """How long each of so many took to be told to come again."""
    took = []
    for _ in range(times):
        begun = time.monotonic()
        assert await whole(client) == "503 come again"
        took.append(time.monotonic() - begun)
    return took


async def test_a_chain_of_three_answers_until_its_last_engine_dies_and_again_when_they_are_back(
    tmp_path: Path,
) -> None:
    with started(tmp_path) as (server, engines):
        for engine in engines:
            await engine.is_up()
        clients = Clients(server.url)
        seen, running = clients.seen, asyncio.create_task(clients.run())
        await clients.until(lambda: seen["whole"] >= CLIENTS and seen["stream"] >= CLIENTS // 2)
        for engine in engines[:2]:
            engine.kill()
            await clients.until_answered(25)
        assert seen.keys() <= {"whole", "stream", "cut"}, seen
        assert seen["cut"] <= CLIENTS  # half of them, twice: what was on its way when its engine died
        engines[2].kill()
        await clients.until(lambda: seen["503 come again"] >= 4 * CLIENTS)
        clients.stop()
        await running
        assert seen.keys() <= {"whole", "stream", "cut", "503 come again"}, seen
        assert server.metric("loquent_fallbacks_total") > 0
        assert server.metric("loquent_breaker_state") > 0
        async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
            took = await seconds_to_refuse(client, 50)
            said = (await client.get("/api/v1/health/detailed")).json()
            assert (said["status"], [said["checks"][f"model:{name}"] != "ok" for name in CHAIN]) == (
                "degraded",
                [True] * 3,
            )
            for engine in engines:
                engine.start()
            for engine in engines:
                await engine.is_up()
            async with asyncio.timeout(PATIENCE):
                while await answered_by(client) != "one":
                    await asyncio.sleep(0.1)
        print(
            f"{dict(seen)}; while all rest, 503 after {statistics.median(took) * 1000:.1f} ms (median of {len(took)})"
        )
        assert statistics.median(took) < 0.05
