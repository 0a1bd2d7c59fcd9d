"""Callers who go: what they asked for ends with them, what there is of it is kept, and the next one is served."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from journeys.processes import end_of
from samples import gguf
from serving import served

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(180)]

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA = f'[[model]]\nname = "small"\nengine = "llama"\nid = "{WEIGHTS}"\n'
SERVERS = ("granian", "uvicorn")
TALE = "Write a very long story about a lighthouse."
OURS, THEIRS = "/api/v1/generations", "/v1/chat/completions"
GONE = 200
WAITING = 50  # of each kind: as many hang up in mid-answer as while they wait for its beginning
PATIENCE = 20.0  # seconds for what is nearly at once; a slow machine is no fault


@dataclass
class Caller:
    """One raw connection, with one request sent on it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def until(self, *words: bytes, seconds: float = PATIENCE, got: bytes = b"") -> bytes:
        """Read on until one of the words has come, or to the end of the connection. ``got``: what came before."""
        async with asyncio.timeout(seconds):
            while not any(word in got for word in words):
                piece = await self.reader.read(65_536)
                if not piece:
                    break
                got += piece
        return got

    def hang_up(self, *, rudely: bool) -> None:
        """Go: with a word (FIN), or without (RST)."""
        if rudely:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.writer.transport.abort()
        else:
            self.writer.close()


class Callers:
    """Everybody who asks in a test."""

    def __init__(self) -> None:
        self._all: list[Caller] = []

    async def __call__(
        self, address: str, path: str, body: dict[str, Any] | None = None, *, buffer: int | None = None
    ) -> Caller:
        """Connect and ask, or GET where there is no body; ``buffer``: bytes after which the server has to wait."""
        made = socket.socket()
        if buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", int(address.rpartition(":")[2])))
        reader, writer = await asyncio.open_connection(sock=made, limit=buffer or 65_536)
        self._all.append(Caller(reader, writer))
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        kind = f"content-type: application/json\r\ncontent-length: {len(data)}\r\n" if data else ""
        writer.write(f"{head}{kind}\r\n".encode() + data)
        await writer.drain()
        return self._all[-1]

    def go(self) -> None:
        """All of them hang up who have not."""
        for caller in self._all:
            caller.writer.transport.abort()


@pytest.fixture
async def call() -> AsyncIterator[Callers]:
    callers = Callers()
    yield callers
    callers.go()
    await asyncio.sleep(0.01)


def tale(path: str, *, stream: bool) -> dict[str, Any]:
    """A body that asks for more than anybody here waits for."""
    messages = [{"role": "user", "content": TALE}]
    return {"model": "small", "messages": messages, "max_tokens": 1500, "temperature": 0, "stream": stream}


async def running(client: httpx2.AsyncClient) -> int:
    """How many generations run in the server now."""
    page = (await client.get("/metrics")).text
    found = re.search(r"^loquent_running_generations ([0-9.]+)$", page, re.MULTILINE)
    assert found, page
    return int(float(found[1]))


async def until_running(client: httpx2.AsyncClient, wanted: int, seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while await running(client) != wanted:
            await asyncio.sleep(0.02)


async def listed(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """Every record there is."""
    rows: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get(OURS, params={"limit": 100, **after})).json()
        rows += page["data"]
        if not page["has_more"]:
            return rows
        after = {"after": page["last_id"]}


@asynccontextmanager
async def talking(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE, verify=False) as client:
        yield client


def weights() -> Path:
    """The folder of the real model's weights; fails the test where they are not there."""
    folder = Path(os.environ.get("LOQUENT_MODELS_DIR") or "data/models").resolve()
    if not (folder / WEIGHTS).is_file():
        pytest.fail(f"{folder / WEIGHTS} is not there: run `make model`, or set LOQUENT_MODELS_DIR")
    return folder


@asynccontextmanager
async def on_a_real_model(folder: Path, kind: str, models: Path) -> AsyncIterator[str]:
    """A server with the embedded model in memory, and two slots."""
    environ = {
        "LOQUENT_SERVER": kind,
        "LOQUENT_MODELS_DIR": str(models),
        "LOQUENT_LLAMA_SLOTS": "2",
        "LOQUENT_LLAMA_CONTEXT": "2048",
        "LOQUENT_STOP_SECONDS": "1",
    }
    (folder / "models.toml").write_text(LLAMA)
    with served(folder, **environ) as server:
        async with talking(server.url) as client, asyncio.timeout(60):
            while not (await client.get("/api/v1/health/ready")).is_success:
                await asyncio.sleep(0.05)
        yield server.url


async def first_token(call: Callers, address: str) -> float:
    """Seconds to the first token of a stream, whose caller then waits for its end."""
    began = time.monotonic()
    caller = await call(address, OURS, {"prompt": "Say hello.", "max_tokens": 4, "stream": True})
    got = await caller.until(b"event: delta", seconds=60)
    took = time.monotonic() - began
    assert b"event: delta" in got, got
    assert b"event: done" in await caller.until(b"event: done", seconds=60, got=got)
    caller.hang_up(rudely=False)
    return took


@pytest.mark.model
@pytest.mark.parametrize("kind", SERVERS)
async def test_behind_200_callers_who_hang_up_the_next_is_served_at_once(
    tmp_path: Path, call: Callers, kind: str
) -> None:
    chance, models = random.Random(6), weights()
    if kind != SERVERS[0]:  # it is another server's hang-ups that are seen here: a third of the model will do
        models = gguf.shortened(models / WEIGHTS, tmp_path / WEIGHTS, layers=10).parent
    async with on_a_real_model(tmp_path, kind, models) as address, talking(address) as client:
        alone = max([await first_token(call, address) for _ in range(3)])
        silent = [
            await call(address, path, tale(path, stream=stream))
            for path, stream in ((OURS, False), (THEIRS, False), (OURS, True), (THEIRS, True)) * (WAITING // 2)
        ]
        await until_running(client, len(silent))
        reading = [
            await call(address, path, tale(path, stream=True)) for path in (OURS, THEIRS) * ((GONE - len(silent)) // 2)
        ]
        await until_running(client, GONE)

        async def read_a_little(caller: Caller) -> None:
            got = await caller.until(b'"text":"', b'"content":"', seconds=90)
            assert b" 200 " in got.splitlines()[0], got
            caller.hang_up(rudely=chance.random() < 0.5)

        readers = [asyncio.create_task(read_a_little(caller)) for caller in reading]
        for caller in chance.sample(silent, len(silent)):
            caller.hang_up(rudely=chance.random() < 0.5)
        await asyncio.gather(*readers)
        took = await first_token(call, address)
        await until_running(client, 0)
        rows = await listed(client)
        assert Counter(row["status"] for row in rows) == {"cancelled": GONE, "completed": 4}
        gone = [row for row in rows if row["status"] == "cancelled"]
        assert {row["finish_reason"] for row in gone} == {"cancelled"}
        for row in gone:
            usage = row["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        begun = [row for row in gone if row["usage"]["completion_tokens"]]
        assert len(begun) >= len(reading)
        assert all(row["output_preview"] and row["usage"]["prompt_tokens"] for row in begun)
        print(f"{kind}: first token alone {alone:.3f} s, behind {GONE} who went {took:.3f} s")
        # one slot that was not given back would cost a whole tale, of many seconds
        assert took < max(3.0, 10 * alone)


ENDLESS = "[slow 0.01] [words 100000] and so on"
STOP = 1.0  # seconds that a stop gives


def record(folder: Path, id: str) -> dict[str, Any]:
    """What the store's file holds of a generation."""
    with closing(sqlite3.connect(f"{(folder / 'data' / 'loquent.db').as_uri()}?mode=ro", uri=True)) as store:
        store.row_factory = sqlite3.Row
        [row] = store.execute("SELECT * FROM generations JOIN contents USING (id) WHERE id = ?", (id,)).fetchall()
    return dict(row)


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_stop_ends_every_stream_with_an_event_and_hands_jobs_back(
    tmp_path: Path, call: Callers, kind: str
) -> None:
    environ = {"LOQUENT_SERVER": kind, "LOQUENT_STOP_SECONDS": str(STOP), "LOQUENT_CHECKPOINT_SECONDS": "0.1"}
    with served(tmp_path, **environ) as server:
        async with talking(server.url) as client:
            job = (await client.post(OURS, json={"prompt": ENDLESS, "background": True})).json()["id"]
            chat = {"model": "echo", "messages": [{"role": "user", "content": ENDLESS}], "stream": True}
            ours = await call(server.url, OURS, {"prompt": ENDLESS, "stream": True})
            theirs = await call(server.url, THEIRS, chat)
            whole = await call(server.url, OURS, {"prompt": ENDLESS})
            follower = await call(server.url, f"{OURS}/{job}/events", None)
            for caller in (ours, theirs, follower):
                assert b"data:" in await caller.until(b"data:")
            await until_running(client, 4)
            short = await call(server.url, OURS, {"prompt": "[slow 0.02] [words 20] x", "stream": True})
            begun = await short.until(b"data:")
            assert b"data:" in begun
        server.process.send_signal(signal.SIGTERM)
        assert await end_of(server.process, STOP + 15) == 0
        ends = [begun + await short.until(), *[await caller.until() for caller in (ours, theirs, whole, follower)]]
    print([end[-300:] for end in ends])
    assert b"event: done" in ends[0]
    assert b"event: error" in ends[1]
    assert b'data: {"error":{' in ends[2]
    assert b" 503 " in ends[3].splitlines()[0]
    assert b"event: error" in ends[4]
    back = record(tmp_path, job)
    assert (back["status"], back["attempts"], back["lease_by"]) == ("pending", 0, None)
    assert back["output"]


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_caller_who_never_reads_is_let_go_when_he_hangs_up_and_when_the_server_stops(
    tmp_path: Path, call: Callers, kind: str
) -> None:
    flood = {"prompt": "[words 10000] " + "x" * 2000, "stream": True}  # more than all buffers between them hold
    with served(tmp_path, LOQUENT_SERVER=kind, LOQUENT_STOP_SECONDS=str(STOP)) as server:
        async with talking(server.url) as client:
            stalled = [await call(server.url, OURS, flood, buffer=4096) for _ in range(2)]
            await until_running(client, 2)
            await asyncio.sleep(1)  # until those are full
            assert await running(client) == 2
            stalled[0].hang_up(rudely=True)
            await until_running(client, 1)
        server.process.send_signal(signal.SIGTERM)
        assert await end_of(server.process, STOP + 10) == 0  # the server's own patience comes on top
