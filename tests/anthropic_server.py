"""A server that speaks Anthropic's Messages API, written from its public documentation; the echo engine answers.

It takes what is documented and refuses the rest, in the documented words and statuses: what an engine gets wrong here
it gets wrong there. The orders of the echo engine work: ``[busy 2]`` is a 429, ``[away]`` a 529, ``[fail]`` a 500,
``[cut 3]`` an error event after three words. A picture is answered with what sort it is and how long.
Sources: https://platform.claude.com/docs/en/api/messages/create, …/build-with-claude/streaming, …/api/errors
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any

from loquent.domain.errors import ContextOverflow, EngineBusy, Invalid, LoquentError, Unavailable
from loquent.domain.models import Model
from loquent.domain.requests import Message, Parameters
from loquent.engines import Options
from loquent.engines.echo import Echo
from loquent.ports.engine import Ask, Chunk
from scripted import Caller, listening

FIELDS = frozenset(
    (
        *("model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k", "stop_sequences", "stream"),
        *("output_config", "metadata", "thinking", "tools", "tool_choice", "service_tier", "cache_control"),
    )
)
SAMPLING = {"2023-06-01": frozenset[str](), "2026-10-21": frozenset(("temperature", "top_p", "top_k"))}
"""The versions of the API, and what each no longer takes (…/api/migration-2026-10-21)."""
MEDIA = frozenset(("image/jpeg", "image/png", "image/gif", "image/webp"))
TYPES = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
BOUNDS = frozenset(("minimum", "maximum", "multipleOf", "minLength", "maxLength", "maxItems", "uniqueItems"))
WORDS = {"stop": "end_turn", "length": "max_tokens"}


class Refused(Exception):
    """An answer in the form of an error."""

    def __init__(self, status: int, kind: str, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.wait = status, kind, message, wait

    def body(self) -> dict[str, Any]:
        return {"type": "error", "error": {"type": self.kind, "message": self.message}, "request_id": "req_1"}


def need(claim: bool, message: str) -> None:
    if not claim:
        raise Refused(400, "invalid_request_error", message)


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
            raise Refused(401, "authentication_error", "invalid x-api-key")
        version = caller.headers.get("anthropic-version", "")
        need(version in SAMPLING, f"anthropic-version: {version or 'header is required'}")
        method, path, _ = caller.line.split(" ")
        if (method, path.partition("?")[0]) == ("GET", "/v1/models"):
            listed = {"data": [{"type": "model", "id": "echo", "display_name": "Echo"}], "has_more": False}
            await caller.answer(json.dumps(listed).encode())
            return
        if (method, path) != ("POST", "/v1/messages"):
            raise Refused(404, "not_found_error", "Not Found")
        for name in SAMPLING[version] & caller.body.keys():
            need(False, f"{name}: Extra inputs are not permitted")
        ask, stops = self._ask(caller.body), tuple(caller.body.get("stop_sequences", ()))
        said = sum(len(message.content.split()) for message in ask.messages)
        try:
            if ask.streamed:
                await self._stream(caller, ask, stops, said)
            else:
                (chunk,) = [chunk async for chunk in self._echo.stream(ask)]
                assert chunk.usage is not None
                usage = {**read(said), "output_tokens": chunk.usage.completion_tokens}
                content = [{"type": "thinking", "thinking": "", "signature": "c2ln"}]
                content += [{"type": "text", "text": chunk.text}] if chunk.text else []
                done = await self._end(ask, stops, chunk.text, chunk.finish_reason)
                await caller.answer(json.dumps({**begun(usage), "content": content, **done}).encode())
        except LoquentError as fault:
            raise refused_by(fault, self._model, said) from fault

    async def _stream(self, caller: Caller, ask: Ask, stops: tuple[str, ...], said: int) -> None:
        async with aclosing(self._echo.stream(ask)) as chunks:  # type: ignore[type-var]
            first = await anext(chunks)
            await caller.begin()
            try:
                async for event in self._events(first, chunks, ask, stops, said):
                    await caller.chunk(
                        b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode())
                    )
            except LoquentError as fault:
                body = refused_by(fault, self._model, said).body()
                await caller.chunk(b"event: error\ndata: %s\n\n" % json.dumps(body).encode())
            await caller.send(b"0\r\n\r\n")

    async def _events(
        self, first: Chunk, chunks: AsyncIterator[Chunk], ask: Ask, stops: tuple[str, ...], said: int
    ) -> AsyncIterator[dict[str, Any]]:
        yield {"type": "message_start", "message": begun({**read(said), "output_tokens": 1})}
        thinking = {"type": "thinking", "thinking": "", "signature": ""}
        yield {"type": "content_block_start", "index": 0, "content_block": thinking}
        yield {"type": "ping"}
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}}
        yield {"type": "content_block_stop", "index": 0}
        yield {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
        text, chunk = "", first
        while True:
            text += chunk.text
            if chunk.text:
                delta = {"type": "text_delta", "text": chunk.text}
                yield {"type": "content_block_delta", "index": 1, "delta": delta}
            if chunk.usage is not None:
                break
            chunk = await anext(chunks)
        yield {"type": "content_block_stop", "index": 1}
        done = await self._end(ask, stops, text, chunk.finish_reason)
        yield {"type": "message_delta", "delta": done, "usage": {"output_tokens": chunk.usage.completion_tokens}}
        yield {"type": "message_stop"}

    async def _end(self, ask: Ask, stops: tuple[str, ...], text: str, reason: str | None) -> dict[str, Any]:
        """Why it ended: where a stop string did it, which one."""
        free = ""
        if stops and reason == "stop":
            parameters = Parameters(response_format=ask.parameters.response_format)
            (chunk,) = [c async for c in self._echo.stream(Ask(ask.model, parameters, ask.messages, streamed=False))]
            free = chunk.text[len(text) :].lstrip()
        met = next((stop for stop in stops if free.startswith(stop.lstrip())), None) if free else None
        return {"stop_reason": "stop_sequence" if met else WORDS[reason or "stop"], "stop_sequence": met}

    def _ask(self, body: Mapping[str, Any]) -> Ask:
        """The request, checked. Raises Refused."""
        for name in body:
            need(name in FIELDS, f"{name}: Extra inputs are not permitted")
        for name in ("model", "messages", "max_tokens"):
            need(name in body, f"{name}: Field required")
        if body["model"] != "echo":
            raise Refused(404, "not_found_error", f"model: {body['model']}")
        need(isinstance(body["max_tokens"], int) and body["max_tokens"] > 0, "max_tokens: must be greater than 0")
        for name in ("temperature", "top_p"):
            need(0 <= body.get(name, 1) <= 1, f"{name}: range: 0..1")
        need(
            "temperature" not in body or "top_p" not in body,
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        )
        for stop in body.get("stop_sequences", ()):
            need(bool(stop.strip()), "stop_sequences: each stop sequence must contain non-whitespace")
        form = None
        if wanted := body.get("output_config", {}).get("format"):
            need(wanted.get("type") == "json_schema", "output_config.format.type: Input should be 'json_schema'")
            check(wanted.get("schema"))
            form = {"type": "json_schema", "json_schema": {"schema": wanted["schema"]}}
        parameters = Parameters(body["max_tokens"], stop=tuple(body.get("stop_sequences", ())), response_format=form)
        system = [Message("system", text_of(body["system"]))] if body.get("system") else []
        return Ask(self._model, parameters, (*system, *turns(body["messages"])), streamed=body.get("stream", False))


def turns(messages: Any) -> list[Message]:
    """The turns, checked: ``user`` first, one after the other, none empty. The API itself is more lenient today."""
    need(isinstance(messages, list) and bool(messages), "messages: at least one message is required")
    made = []
    for number, message in enumerate(messages):
        need(message["role"] == ("user", "assistant")[number % 2], "messages: roles must alternate, user first")
        made.append(Message(message["role"], text_of(message["content"])))
    return made


def text_of(content: Any) -> str:
    """What blocks say."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    need(bool(blocks), "messages: content must be non-empty")
    texts = []
    for block in blocks:
        if block["type"] == "text":
            need(bool(block["text"].strip()), "messages: text content blocks must contain non-whitespace text")
            texts.append(block["text"])
            continue
        need(block["type"] == "image", f"messages: Input tag '{block['type']}' found using 'type' is not expected")
        source = block["source"]
        need(source["type"] == "base64" and source["media_type"] in MEDIA, "messages: source.media_type is not one of")
        try:
            data = base64.b64decode(source["data"], validate=True)
        except binascii.Error:
            raise Refused(400, "invalid_request_error", "messages: source.base64: invalid base64 data") from None
        texts.append(f"{source['media_type']} of {len(data)} bytes.")
    return "\n".join(texts)


def check(schema: Any, where: str = "output_config.format.schema") -> None:
    """A schema of the documented kind: objects closed, no bounds on numbers and lengths."""
    need(isinstance(schema, dict), f"{where}: Input should be a valid dictionary")
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    need(all(kind in TYPES for kind in kinds), f"{where}: {kinds} is not a type")
    need(bool(kinds) or bool(schema.keys() & {"enum", "const", "anyOf", "$ref"}), f"{where}: a type is required")
    if "object" in kinds:
        closed = schema.get("additionalProperties") is False
        need(closed, f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    for name in BOUNDS & schema.keys():
        need(False, f"{where}: property '{name}' is not supported")
    parts = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    for part in [*parts, *([schema["items"]] if "items" in schema else [])]:
        check(part, where)


def read(tokens: int) -> dict[str, int]:
    """The prompt's tokens as they are counted there: half of them came from a cache."""
    cached = tokens // 2
    return {"input_tokens": tokens - cached, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached}


def begun(usage: Mapping[str, int]) -> dict[str, Any]:
    """A message at its beginning."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "echo",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def refused_by(fault: LoquentError, model: Model, said: int) -> Refused:
    """The echo engine's fault as the API says it."""
    if isinstance(fault, ContextOverflow):
        words = f"prompt is too long: {said} tokens > {model.context} maximum"
        return Refused(400, "invalid_request_error", words)
    if isinstance(fault, Invalid):
        return Refused(400, "invalid_request_error", f"output_config.format: {fault.message}")
    if isinstance(fault, EngineBusy):
        return Refused(429, "rate_limit_error", "This request would exceed your rate limit.", fault.retry_after)
    if isinstance(fault, Unavailable):
        return Refused(529, "overloaded_error", "Overloaded")
    return Refused(500, "api_error", "Internal server error")


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
