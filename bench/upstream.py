"""A mock OpenAI server that is never the bottleneck: ready-made answers, and one timer for all streams.

``python -m bench.upstream --port 9000 --chunks 200 --rate 50``
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
from dataclasses import dataclass
from typing import Any, cast

import uvloop

from bench.wire import message

PROMPT_TOKENS = 12
COMPLETION_TOKENS = 48
WORDS = (
    "the",
    "harbour",
    "lay",
    "still",
    "and",
    "every",
    "lamp",
    "along",
    "its",
    "wall",
    "had",
    "gone",
    "out",
    "but",
    "one",
)
ANSWER = (
    "A gateway sits between an application and a language model. It knows who asks, keeps each caller within "
    "limits, and records what was asked, answered and spent."
)
HEAD = b"HTTP/1.1 %b\r\ncontent-type: %b\r\n%b\r\n\r\n"
SLOTS = 10  # wake-ups in the time between two chunks of one stream


def words(chunks: int) -> list[str]:
    """The text that a stream carries, chunk by chunk."""
    return [" " + WORDS[each % len(WORDS)] for each in range(chunks)]


def usage(completion_tokens: int) -> dict[str, int]:
    """Usage as an answer states it."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion_tokens,
        "total_tokens": PROMPT_TOKENS + completion_tokens,
    }


class Wheel:
    """Sends the next chunk of every stream when it is due: SLOTS wake-ups an interval, however many streams."""

    def __init__(self, rate: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.slots: list[set[Upstream]] = [set() for _ in range(SLOTS)]
        self.gap = 1 / rate / SLOTS
        self.at = 0
        self.next: float | None = None  # None: nothing to turn for

    def add(self, stream: Upstream) -> None:
        """One interval from now, the stream's next chunk is due."""
        if self.next is None:
            self.next = self.loop.time() + self.gap
            self.loop.call_at(self.next, self._turn)
        self.slots[self.at - 1].add(stream)

    def _turn(self) -> None:
        now = self.loop.time()
        while self.next is not None and self.next <= now:
            slot = self.slots[self.at]
            slot -= {stream for stream in slot if not stream.send_chunk()}
            self.at = (self.at + 1) % SLOTS
            self.next = self.next + self.gap if any(self.slots) else None
        if self.next is not None:
            self.loop.call_at(self.next, self._turn)


@dataclass
class Form:
    """The bytes of one endpoint's answers: whole, and as a stream."""

    whole: bytes
    head: bytes
    parts: list[bytes]
    end: bytes
    usage: bytes


class Script:
    """The ready-made bytes of every answer."""

    def __init__(self, chunks: int) -> None:
        end: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
        on = end | {"finish_reason": None}
        opening = {"choices": [on | {"delta": {"role": "assistant", "content": ""}}]}
        self.forms = {
            b"/v1/chat/completions": _form(
                {"id": "chatcmpl-9f2c41d7b6a84e0c", "object": "chat.completion"},
                {"id": "chatcmpl-9f2c41d7b6a84e0c", "object": "chat.completion.chunk"},
                end | {"message": {"role": "assistant", "content": ANSWER, "refusal": None}},
                [on | {"delta": {"content": word}} for word in words(chunks)],
                end | {"delta": {}},
                opening,
            ),
            b"/v1/completions": _form(
                {"id": "cmpl-9f2c41d7b6a84e0c", "object": "text_completion"},
                {"id": "cmpl-9f2c41d7b6a84e0c", "object": "text_completion"},
                end | {"text": ANSWER},
                [on | {"text": word} for word in words(chunks)],
                end | {"text": ""},
                None,
            ),
        }
        self.models = _json({"object": "list", "data": [{"id": "bench", "object": "model", "owned_by": "bench"}]})
        self.missing = _json({"error": {"message": "no such path", "type": "invalid_request_error"}}, b"404 Not Found")
        self.done = _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _form(
    kind: dict[str, Any],
    chunk: dict[str, Any],
    answer: dict[str, Any],
    parts: list[dict[str, Any]],
    end: dict[str, Any],
    opening: dict[str, Any] | None,
) -> Form:
    both = {"created": 1795000000, "model": "bench", "system_fingerprint": "fp_1"}
    head = HEAD % (b"200 OK", b"text/event-stream", b"cache-control: no-cache\r\ntransfer-encoding: chunked")
    return Form(
        whole=_json(kind | both | {"choices": [answer], "usage": usage(COMPLETION_TOKENS)}),
        head=head + (_event(chunk | both | opening) if opening else b""),
        parts=[_event(chunk | both | {"choices": [part]}) for part in parts],
        end=_event(chunk | both | {"choices": [end]}),
        usage=_event(chunk | both | {"choices": [], "usage": usage(len(parts))}),
    )


class Upstream(asyncio.Protocol):
    """One connection: requests are answered in order; what comes during a stream waits for its end."""

    transport: asyncio.Transport

    def __init__(self, script: Script, wheel: Wheel) -> None:
        self.script, self.wheel = script, wheel
        self.held = b""
        self.parts: list[bytes] = []  # of the stream that is on its way; empty: none
        self.last = b""
        self.at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is not a subclass

    def data_received(self, data: bytes) -> None:
        self.held = self.held + data if self.held else data
        while self.held and not self.parts and (whole := message(self.held)) is not None:
            head, body, stop = whole
            self.held = self.held[stop:]
            self._answer(head.split(b" ", 2)[1], body)

    def send_chunk(self) -> bool:
        """Send the stream's next chunk, and the end behind the last one; False when there is no more to do."""
        if self.transport.is_closing():
            return False
        part = self.parts[self.at]
        self.at += 1
        if self.at < len(self.parts):
            self.transport.write(part)
            return True
        self.transport.write(part + self.last)
        self.parts, self.at = [], 0
        if self.held:
            self.wheel.loop.call_soon(self.data_received, b"")
        return False

    def _answer(self, path: bytes, body: bytes) -> None:
        script = self.script
        form = script.forms.get(path)
        if form is None:
            self.transport.write(script.models if path == b"/v1/models" else script.missing)
            return
        asked = json.loads(body) if b'"stream"' in body else {}
        if not asked.get("stream"):
            self.transport.write(form.whole)
            return
        with_usage = (asked.get("stream_options") or {}).get("include_usage")
        self.parts, self.last = form.parts, form.end + (form.usage if with_usage else b"") + script.done
        self.transport.write(form.head)
        if self.send_chunk():
            self.wheel.add(self)


def _json(body: dict[str, Any], status: bytes = b"200 OK") -> bytes:
    data = json.dumps(body).encode()
    return HEAD % (status, b"application/json", b"content-length: %d" % len(data)) + data


def _event(body: dict[str, Any]) -> bytes:
    return _frame(b"data: %b\n\n" % json.dumps(body).encode())


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int, chunks: int, rate: float) -> None:
    """Serve on loopback until told to stop."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    script, wheel = Script(chunks), Wheel(rate)
    await loop.create_server(lambda: Upstream(script, wheel), "127.0.0.1", port, backlog=4096)
    gc.freeze()
    await stop.wait()


def main() -> None:
    """Read the command line and serve."""
    ask = argparse.ArgumentParser(prog="python -m bench.upstream", description="a mock OpenAI server")
    ask.add_argument("--port", type=int, required=True)
    ask.add_argument("--chunks", type=int, default=200, help="content chunks of a stream (default 200)")
    ask.add_argument("--rate", type=float, default=50, help="chunks a second of a stream (default 50)")
    asked = ask.parse_args()
    uvloop.run(serve(asked.port, asked.chunks, asked.rate))


if __name__ == "__main__":
    main()
