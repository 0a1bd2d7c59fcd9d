"""The load generator: a raw protocol client that costs a fraction of any server it measures.

``python -m bench.load requests --url http://127.0.0.1:9000/v1/chat/completions --clients 32 --seconds 5``
``python -m bench.load streams  --url http://127.0.0.1:9000/v1/chat/completions --streams 1000 --chunks 200``
What came of it is printed as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from bench.upstream import ANSWER, usage, words
from bench.wire import Answer, message, read_stream

GRACE = 15.0  # seconds beyond the plan that the last answers may take
MESSAGES = [
    {"role": "system", "content": "You answer in two sentences."},
    {"role": "user", "content": "What does a gateway between an application and a language model do?"},
]
BODY = {"model": "bench", "messages": MESSAGES, "max_tokens": 256, "temperature": 0.7}
STREAM = BODY | {"stream": True, "stream_options": {"include_usage": True}}


class Target:
    """Where requests go, and their bytes."""

    def __init__(self, url: str, bearer: str) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.path = parts.hostname or "127.0.0.1", parts.port or 80, parts.path
        self.key = f"Authorization: Bearer {bearer}\r\n" if bearer else ""

    def request(self, body: dict[str, Any] | None) -> bytes:
        """A whole request; without a body it is a GET."""
        if body is None:
            return f"GET {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{self.key}\r\n".encode()
        data = json.dumps(body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{self.key}"
            f"Content-Type: application/json\r\nAccept: */*\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


class Requests:
    """Closed loop: each client asks again as soon as it has its answer; of several targets each has its share."""

    def __init__(self, targets: list[Target], body: dict[str, Any] | None, warm: float, seconds: float) -> None:
        self.targets = targets
        self.body = body
        self.begin = perf_counter() + warm
        self.end = self.begin + seconds
        self.ok = 0
        self.times: list[float] = []  # of the answers that came in the measured time
        self.errors: Counter[str] = Counter()
        self.running = 0
        self.over = asyncio.Event()
        self.again: asyncio.Task[None] | None = None

    def took(self, sent: float, head: bytes, body: bytes) -> bool:
        """Count an answer; whether to ask again."""
        now = perf_counter()
        if head[9:12] != b"200":
            self.errors[f"status {head[9:12].decode()}"] += 1
        elif self.body is not None and (EXPECTED not in body or b'"total_tokens"' not in body):
            self.errors["not the answer"] += 1
        else:
            self.ok += 1
            if self.begin <= now < self.end:
                self.times.append(now - sent)
        return now < self.end

    async def run(self, clients: int) -> dict[str, Any]:
        """Ask until the time is over and every answer is in."""
        loop = asyncio.get_running_loop()
        for number in range(clients):
            target = self.targets[number % len(self.targets)]
            await loop.create_connection(partial(Caller, self, target), target.host, target.port)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.end + GRACE - perf_counter()):
                await self.over.wait()
        self.errors["unanswered"] += self.running
        return {
            "ok": self.ok,
            "per_second": round(len(self.times) / (self.end - self.begin), 1),
            "p50_ms": at(self.times, 0.5),
            "p99_ms": at(self.times, 0.99),
            "errors": +self.errors,
        }


EXPECTED = json.dumps(ANSWER).encode()


class Caller(asyncio.Protocol):
    """One client of the closed loop, on a connection that is kept."""

    def __init__(self, run: Requests, target: Target) -> None:
        self.run, self.target = run, target
        self.bytes = target.request(run.body)
        self.held = b""
        self.sent = 0.0  # 0: nothing is under way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.run.running += 1
        self.ask()

    def ask(self) -> None:
        """Send the request."""
        self.sent = perf_counter()
        self.transport.write(self.bytes)

    def data_received(self, data: bytes) -> None:
        if self.held:
            data = self.held + data
        whole = message(data)
        if whole is None:
            self.held = data
            return
        self.held = b""
        if self.run.took(self.sent, whole[0], whole[1]):
            self.ask()
        else:
            self.sent = 0.0
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.running -= 1
        if not self.run.running and perf_counter() >= self.run.end:
            self.run.over.set()
        if not self.sent:
            return
        self.run.errors["connection lost"] += 1
        if perf_counter() < self.run.end:
            self.run.again = asyncio.create_task(self._again())

    async def _again(self) -> None:
        await asyncio.sleep(0.01)
        caller, target = partial(Caller, self.run, self.target), self.target
        with suppress(OSError):
            await asyncio.get_running_loop().create_connection(caller, target.host, target.port)


class Listener(asyncio.Protocol):
    """One stream: keeps what comes, as it comes; it is read after the clock has stopped."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.parts: list[bytes] = []
        self.tail = b""
        self.opened = self.first = self.ended = 0.0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        self.tail = data[-7:] if len(data) > 6 else (self.tail + data)[-7:]
        if not self.first:
            self._look(b"".join(self.parts))
        if self.tail == b"\r\n0\r\n\r\n":
            self.finish()

    def _look(self, data: bytes) -> None:
        if TEXT.search(data):
            self.first = perf_counter()
        elif b"content-length:" in data.lower() and message(data):  # no stream at all: a refusal
            self.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.finish()

    def finish(self) -> None:
        """No more will come."""
        if not self.over.done():
            self.ended = perf_counter()
            self.over.set_result(None)
            self.transport.close()


TEXT = re.compile(rb'"(?:content|text)": ?"[^"]')  # the first chunk may be a role and no text


async def streams(
    target: Target, bodies: list[dict[str, Any]], count: int, ramp: float, limit: float
) -> list[Listener]:
    """Open that many streams over ``ramp`` seconds and listen until all have ended, or ``limit`` seconds."""
    loop = asyncio.get_running_loop()
    requests = [target.request(body) for body in bodies]
    start = perf_counter()

    async def one(number: int) -> Listener:
        await asyncio.sleep(start + ramp * number / count - perf_counter())
        listener = Listener(requests[number % len(requests)])
        listener.opened = perf_counter()
        try:
            await loop.create_connection(lambda: listener, target.host, target.port)
            async with asyncio.timeout(limit):
                await listener.over
        except (OSError, TimeoutError):
            listener.ended = perf_counter()
        return listener

    return list(await asyncio.gather(*(one(number) for number in range(count))))


def told(listeners: list[Listener], chunks: int) -> dict[str, Any]:
    """What came of the streams. With ``chunks``: each must hold exactly the mock's text and usage."""
    read = [read_stream(b"".join(each.parts)) for each in listeners]
    errors = Counter(fault for answer in read if (fault := fault_of(answer, chunks)))
    wall = max(each.ended for each in listeners) - min(each.opened for each in listeners)
    first = [each.first - each.opened for each in listeners if each.first]
    total = sum(answer.chunks for answer in read)
    return {
        "streams": len(listeners),
        "ok": len(listeners) - errors.total(),
        "seconds": round(wall, 3),
        "chunks": total,
        "per_second": round(total / wall, 1),
        "reads": sum(len(each.parts) for each in listeners),
        "p50_ms": at(first, 0.5),
        "p99_ms": at(first, 0.99),
        "prompt_tokens": sum((answer.usage or {}).get("prompt_tokens", 0) for answer in read),
        "completion_tokens": sum((answer.usage or {}).get("completion_tokens", 0) for answer in read),
        "errors": errors,
    }


def fault_of(answer: Answer, chunks: int) -> str:
    """What is wrong with a streamed answer; empty: nothing."""
    if answer.fault or not chunks:
        return answer.fault
    if answer.text != "".join(words(chunks)):
        return "not the text"
    if answer.chunks != chunks:
        return "not as many chunks"
    asked, told_ = usage(chunks), answer.usage or {}
    return "" if asked == {name: told_.get(name) for name in asked} else "not the usage"


def at(values: list[float], share: float) -> float:
    """The value, in ms, that this share of the values stays under."""
    ordered = sorted(values)
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 3) if ordered else 0.0


async def _main(asked: argparse.Namespace) -> dict[str, Any]:
    gc.disable()  # a collection in the middle would be seen as the server's latency
    targets = [Target(url, asked.bearer) for url in asked.url.split(",")]
    if asked.form != "streams":
        body = (asked.bodies or [BODY])[0] if asked.form == "requests" else None
        return await Requests(targets, body, asked.warm, asked.seconds).run(asked.clients)
    bodies = asked.bodies or [STREAM]
    return told(await streams(targets[0], bodies, asked.streams, asked.ramp, asked.limit), asked.chunks)


def _bodies(path: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(Path(path).read_text())
    return read


def main() -> None:
    """Read the command line, load, print."""
    ask = argparse.ArgumentParser(prog="python -m bench.load", description="load for an OpenAI-compatible server")
    ask.add_argument("form", choices=("requests", "reads", "streams"), help="reads: requests that only get")
    ask.add_argument("--url", required=True, help="of the endpoint; requests: or of several, with commas")
    ask.add_argument("--bearer", default="", help="token or key")
    ask.add_argument("--clients", type=int, default=32, help="requests: at the same time (default 32)")
    ask.add_argument("--seconds", type=float, default=5, help="requests: measured time (default 5)")
    ask.add_argument("--warm", type=float, default=1, help="requests: time before that (default 1)")
    ask.add_argument("--streams", type=int, default=1000, help="streams: how many (default 1000)")
    ask.add_argument("--ramp", type=float, default=1, help="streams: seconds in which they open (default 1)")
    ask.add_argument("--limit", type=float, default=60, help="streams: seconds that one may take (default 60)")
    ask.add_argument("--chunks", type=int, default=0, help="streams: chunks that the mock sends; 0: do not compare")
    ask.add_argument("--bodies", type=_bodies, help="a JSON file of bodies; streams take them in turn")
    print(json.dumps(uvloop.run(_main(ask.parse_args()))))


if __name__ == "__main__":
    main()
