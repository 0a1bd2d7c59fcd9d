"""A server for engines to call, that says exactly what a test tells it to; what it saw is kept."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any


class Caller:
    """One request as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.line = ""
        self.headers: dict[str, str] = {}
        self.body: dict[str, Any] = {}

    async def listen(self) -> bool:
        """Read one request; False where the caller is gone."""
        try:
            self.line = (await self.reader.readuntil(b"\r\n")).decode().strip()
            self.headers = {}
            while line := (await self.reader.readuntil(b"\r\n")).decode().strip():
                name, _, value = line.partition(":")
                self.headers[name.lower()] = value.strip()
            data = await self.reader.readexactly(int(self.headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        self.body = json.loads(data) if data else {}
        return True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes, status: int = 200, kind: str = "application/json", extra: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        await self.send(head.encode() + body)

    async def begin(self, kind: str = "text/event-stream; charset=utf-8") -> None:
        await self.send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def events(self, *data: bytes) -> None:
        await self.begin()
        for one in data:
            await self.chunk(one)
        await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Caller], Awaitable[None]]


class Upstream:
    """A listening server that runs ``script`` for each request; what it saw is kept."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Caller] = []
        self.connections = 0
        self.open = 0
        self.asked = asyncio.Event()
        self.all_gone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        self.all_gone.clear()
        try:
            while await (caller := Caller(reader, writer)).listen():
                self.seen.append(caller)
                self.asked.set()
                await self.script(caller)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
            self.open -= 1
            if not self.open:
                self.all_gone.set()

    async def end(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def listening(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, Upstream]]:
    """Such a server on a free port of loopback, and where it is."""
    upstream = Upstream(script)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{'https' if tls else 'http'}://{host}:{port}", upstream
    finally:
        server.close()
        await upstream.end()
        await server.wait_closed()


@contextmanager
def listening_in_a_thread(script: Script) -> Iterator[str]:
    """The same in a thread of its own, which ends with the context; its base URL. Not for scripts that share state."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        async with listening(script) as (url, _):
            started.set_result((url, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    url, loop, stop = started.result(10)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


# Scripts that fit any wire.


async def hang_up(caller: Caller) -> None:
    caller.reset()


async def hang_up_after_the_head(caller: Caller) -> None:
    await caller.begin()
    await asyncio.sleep(0.02)
    caller.reset()


async def silent(caller: Caller) -> None:
    await caller.reader.read()  # until the engine hangs up


async def silent_after_the_head(caller: Caller) -> None:
    await caller.begin()
    await silent(caller)
