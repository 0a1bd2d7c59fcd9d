"""A server that speaks Anthropic's Messages API, written from its public documentation; the echo engine answers.

The orders of the echo engine work: ``[busy 2]`` is a 429, ``[away]`` a 529, ``[fail]`` a 500, ``[cut 3]`` an error
event after three words, ``[call name {…}]`` a call of a tool, behind a text where there is one, ``[think …]`` a
thought. Two more: ``[error 403]`` is that error, and ``[refuse]`` ends the answer as a refusal.
Sources: those of ``anthropic_checks``, and https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any

from anthropic_checks import OMITTED, SUMMARIZED, Refused, asked, display, need
from loquent.domain.errors import ContextOverflow, EngineBusy, Invalid, LoquentError, Unavailable
from loquent.domain.models import Model
from loquent.domain.requests import AUTO, Parameters
from loquent.engines import Options
from loquent.engines.echo import DIRECTIVE, THOUGHT, Echo
from loquent.engines.echo_calls import ordered
from loquent.ports.engine import Ask, Chunk
from scripted import Caller, listening

SAMPLING = {"2023-06-01": frozenset[str](), "2026-10-21": frozenset(("temperature", "top_p", "top_k"))}
"""The versions of the API, and what each no longer takes (…/api/migration-2026-10-21)."""
WORDS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
ERROR = re.compile(r"\[error (\d{3})\]")
REFUSE = "[refuse]"
SIGNATURE = "c2ln"


class Messages:
    """The API as a script for ``listening``: one model, ``echo``, for whoever has the key."""

    def __init__(self, key: str, *, context: int | None = None) -> None:
        self._key = key
        self._model = Model("echo", "echo", "echo", context=context)
        self._echo = Echo(self._model, Options(Path()))

    async def __call__(self, caller: Caller) -> None:
        try:
            await self._answer(caller)
        except Refused as refused:
            extra = f"retry-after: {refused.wait:g}\r\n" if refused.wait is not None else ""
            await caller.answer(
                json.dumps(refused.body()).encode(), refused.status, extra=f"{extra}request-id: req_1\r\n"
            )

    async def _answer(self, caller: Caller) -> None:
        key = caller.headers.get("x-api-key") or caller.headers.get("authorization", "").removeprefix("Bearer ")
        if key != self._key:
            raise Refused(401, "invalid x-api-key")
        version = caller.headers.get("anthropic-version", "")
        need(version in SAMPLING, f"anthropic-version: {version or 'header is required'}")
        method, path, _ = caller.line.split(" ")
        if (method, path.partition("?")[0]) == ("GET", "/v1/models"):
            listed = {"data": [{"type": "model", "id": "echo", "display_name": "Echo"}], "has_more": False}
            await caller.answer(json.dumps(listed).encode())
            return
        if (method, path) != ("POST", "/v1/messages"):
            raise Refused(404, "Not Found")
        for name in SAMPLING[version] & caller.body.keys():
            need(False, f"{name}: Extra inputs are not permitted")
        ask = asked(caller.body, self._model)
        if found := ERROR.search(ask.messages[-1].content):
            raise Refused(int(found[1]), "as the prompt said")
        said = Said(self._echo, ask, display(caller.body))
        try:
            if ask.streamed:
                await self._stream(caller, said)
            else:
                await caller.answer(json.dumps(await whole(said.events())).encode(), extra="request-id: req_1\r\n")
        except LoquentError as fault:
            raise refused_by(fault, self._model, said.read) from fault

    async def _stream(self, caller: Caller, said: Said) -> None:
        async with aclosing(said.events()) as events:  # type: ignore[type-var]
            first = await anext(events)
            await caller.begin()
            try:
                await send(caller, first)
                async for event in events:
                    await send(caller, event)
            except LoquentError as fault:
                await send(caller, refused_by(fault, self._model, said.read).body())
            await caller.send(b"0\r\n\r\n")


class Said:
    """An answer as the events of a stream. Nothing is said before the engine says something: it may refuse."""

    def __init__(self, echo: Echo, ask: Ask, shows: str | None) -> None:
        self._echo, self._ask, self._shows = echo, ask, shows
        self.read = sum(len(message.content.split()) for message in ask.messages)
        self._index = -1
        self._kind = ""  # of the block that is open
        self._text = ""

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        async with aclosing(self._echo.stream(self._ask)) as chunks:  # type: ignore[type-var]
            chunk = await anext(chunks)
            yield {"type": "message_start", "message": begun(self.read)}
            if self._shows == OMITTED:  # thoughts that nobody is shown: a signature alone
                yield self._opened({"type": "thinking", "thinking": "", "signature": ""})
                yield {"type": "ping"}
            while True:
                for event in self._said(chunk):
                    yield event
                if chunk.usage is not None:
                    break
                chunk = await anext(chunks)
        for event in self._closed():
            yield event
        used = chunk.usage
        thoughts = {"thinking_tokens": used.reasoning_tokens}
        counts = {"output_tokens": used.completion_tokens, "output_tokens_details": thoughts}
        yield {"type": "message_delta", "delta": await self._end(chunk.finish_reason), "usage": counts}
        yield {"type": "message_stop"}

    def _said(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        if chunk.reasoning and self._shows == SUMMARIZED:
            if self._kind != "thinking":
                yield self._opened({"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": chunk.reasoning})
        if chunk.text:
            yield from self._say(chunk.text)
        for piece in chunk.calls:
            if piece.id:
                if piece.index == 0:
                    yield from self._say(self._before_calls())
                yield from self._closed()
                yield self._opened({"type": "tool_use", "id": f"toolu_{piece.id}", "name": piece.name, "input": {}})
                yield self._delta({"type": "input_json_delta", "partial_json": ""})
            if piece.arguments and piece.arguments != "{}":  # what takes nothing comes without any piece
                yield self._delta({"type": "input_json_delta", "partial_json": piece.arguments})

    def _say(self, text: str) -> Iterator[dict[str, Any]]:
        if text and self._kind != "text":
            yield from self._closed()
            yield self._opened({"type": "text", "text": ""})
        if text:
            self._text += text
            yield self._delta({"type": "text_delta", "text": text})

    def _before_calls(self) -> str:
        """What the model says before it calls something, where it need not: there, the API has it say nothing."""
        if self._ask.tool_choice != AUTO:
            return ""
        return DIRECTIVE.sub("", THOUGHT.sub("", ordered(self._ask.messages[-1].content)[0])).strip()

    def _opened(self, block: dict[str, Any]) -> dict[str, Any]:
        self._index += 1
        self._kind = block["type"]
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _closed(self) -> Iterator[dict[str, Any]]:
        if self._kind == "thinking":
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        if self._kind:
            yield {"type": "content_block_stop", "index": self._index}
        self._kind = ""

    async def _end(self, reason: str | None) -> dict[str, Any]:
        """Why it ended: where a stop string did it, which one."""
        if REFUSE in self._ask.messages[-1].content:
            details = {"type": "refusal", "category": "cyber", "explanation": "as the prompt said"}
            return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
        free, wanted = "", self._ask.parameters
        if wanted.stop and reason == "stop":
            again = Parameters(response_format=wanted.response_format)
            (chunk,) = [
                c async for c in self._echo.stream(Ask(self._ask.model, again, self._ask.messages, None, False))
            ]
            free = chunk.text[len(self._text) :].lstrip()
        met = next((stop for stop in wanted.stop if free.startswith(stop.lstrip())), None) if free else None
        return {"stop_reason": "stop_sequence" if met else WORDS[reason or "stop"], "stop_sequence": met}


def begun(read: int) -> dict[str, Any]:
    """A message at its beginning; half of the prompt's tokens came from a cache, and two were put into it."""
    cached, made = read // 2, min(2, read - read // 2)
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "echo",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": read - cached - made,
            "cache_creation_input_tokens": made,
            "cache_read_input_tokens": cached,
            "cache_creation": {"ephemeral_5m_input_tokens": made, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    }


async def whole(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream's events come to."""
    message: dict[str, Any] = {}
    pieces = ""  # of the input of a call
    async for event in events:
        kind, delta = event["type"], event.get("delta", {})
        if kind == "message_start":
            message = event["message"]
        elif kind == "content_block_start":
            message["content"].append(event["content_block"])
            pieces = ""
        elif kind == "content_block_delta":
            block, (name, piece) = message["content"][-1], list(delta.items())[1]
            pieces += piece if name == "partial_json" else ""
            block |= {"input": {}} if name == "partial_json" else {name: block[name] + piece}
        elif kind == "content_block_stop" and pieces:
            message["content"][-1]["input"] = json.loads(pieces)
        elif kind == "message_delta":
            message |= {**delta, "usage": message["usage"] | event["usage"]}
    return message


async def send(caller: Caller, event: Mapping[str, Any]) -> None:
    await caller.chunk(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode()))


def refused_by(fault: LoquentError, model: Model, said: int) -> Refused:
    """The echo engine's fault as the API says it."""
    if isinstance(fault, ContextOverflow):
        return Refused(400, f"prompt is too long: {said} tokens > {model.context} maximum")
    if isinstance(fault, Invalid):
        return Refused(400, f"output_config.format: {fault.message}")
    if isinstance(fault, EngineBusy):
        return Refused(429, "This request would exceed your rate limit.", fault.retry_after)
    if isinstance(fault, Unavailable):
        return Refused(529, "Overloaded")
    return Refused(500, "Internal server error")


@contextlib.contextmanager
def anthropic_server(key: str, *, context: int | None = None) -> Iterator[str]:
    """The server in a thread of its own, which ends with the context; its base URL."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        async with listening(Messages(key, context=context)) as (url, _):
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
