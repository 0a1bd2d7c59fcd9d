"""A server that speaks OpenAI's chat, completions and embeddings, written from the documentation; echo answers.

It takes what is documented and refuses the rest: what an engine gets wrong here it gets wrong there. The orders of
the echo engine work: ``[busy 2]`` is a 429, ``[away]`` a 503, ``[cut 3]`` an error event after three words.
Sources: https://platform.openai.com/docs/api-reference/chat/create, …/chat-streaming, …/embeddings/create
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import Any

from loquent.domain.errors import ContextOverflow, EngineBusy, Invalid, LoquentError, Unavailable
from loquent.domain.models import Model
from loquent.domain.requests import AUTO, Message, Parameters, Picture, Tool, ToolCall
from loquent.domain.usage import Usage
from loquent.engines import Options
from loquent.engines.echo import Echo
from loquent.ports.engine import Ask, CallPiece, Chunk
from scripted import Caller, listening_in_a_thread

SHARED = frozenset(
    ("model", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options", "logprobs")
)
FIELDS = {
    "/v1/chat/completions": SHARED
    | {"messages", "max_completion_tokens", "response_format", "tools", "tool_choice", "parallel_tool_calls"}
    | {"top_logprobs", "reasoning_effort"},
    "/v1/completions": SHARED | {"prompt", "response_format"},  # the last is llama.cpp's and vLLM's
    "/v1/embeddings": frozenset(("model", "input", "dimensions", "encoding_format")),
}
MESSAGE = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}


class Refused(Exception):
    """An answer in the form of an error."""

    def __init__(self, status: int, message: str, code: str | None = None, wait: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.wait = status, message, code, wait

    def body(self) -> bytes:
        kind = "invalid_request_error" if self.status == 400 else "server_error"
        return json.dumps({"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}).encode()


def need(claim: bool, message: str) -> None:
    if not claim:
        raise Refused(400, message)


class Completions:
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
            await caller.answer(refused.body(), refused.status, extra=extra)

    async def _answer(self, caller: Caller) -> None:
        if caller.headers.get("authorization") != f"Bearer {self._key}":
            raise Refused(401, "Incorrect API key provided", "invalid_api_key")
        method, path, _ = caller.line.split(" ")
        if (method, path) == ("GET", "/v1/models"):
            await caller.answer(b'{"object":"list","data":[{"id":"echo","object":"model"}]}')
            return
        if method != "POST" or path not in FIELDS:
            raise Refused(404, "Invalid URL")
        for name in caller.body:
            need(name in FIELDS[path], f"Unrecognized request argument supplied: {name}")
        need(caller.body.get("model") == "echo", "The model does not exist")
        try:
            if path == "/v1/embeddings":
                await caller.answer(await self._vectors(caller.body))
            elif caller.body.get("stream"):
                await self._stream(caller, path)
            else:
                ask = self._ask(caller.body, path)
                (chunk,) = [chunk async for chunk in self._echo.stream(ask)]
                said = {"choices": [choice_of(chunk, path)], **usage_of(chunk.usage)}
                await caller.answer(json.dumps({**BEGUN, "object": "chat.completion", **said}).encode())
        except LoquentError as fault:
            raise refused_by(fault) from fault

    async def _vectors(self, body: Mapping[str, Any]) -> bytes:
        form = body.get("encoding_format", "float")
        need(form in ("float", "base64"), "encoding_format")
        need(isinstance(body["input"], list) and all(body["input"]), "'$.input' is invalid")
        ask = Ask(self._model, Parameters(), texts=tuple(body["input"]), dimensions=body.get("dimensions"))
        (chunk,) = [chunk async for chunk in self._echo.stream(ask)]
        packed = [array("f", vector).tobytes() for vector in chunk.vectors]
        told = [base64.b64encode(each).decode() if form == "base64" else array("f", each).tolist() for each in packed]
        data = [{"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(told)]
        assert chunk.usage is not None
        used = {"prompt_tokens": chunk.usage.prompt_tokens, "total_tokens": chunk.usage.prompt_tokens}
        return json.dumps({"object": "list", "data": data[::-1], "model": "echo", "usage": used}).encode()

    async def _stream(self, caller: Caller, path: str) -> None:
        ask = self._ask(caller.body, path)
        async with aclosing(self._echo.stream(ask)) as chunks:  # type: ignore[type-var]
            first = await anext(chunks)
            await caller.begin()
            try:
                async for event in events(first, chunks, path):
                    await caller.chunk(b"data: %s\n\n" % json.dumps({**BEGUN, **event}).encode())
                await caller.chunk(b"data: [DONE]\n\n")
            except LoquentError as fault:
                await caller.chunk(b"data: %s\n\n" % refused_by(fault).body())
            await caller.send(b"0\r\n\r\n")

    def _ask(self, body: Mapping[str, Any], path: str) -> Ask:
        """The request, checked. Raises Refused."""
        likely = body.get("logprobs")
        if path == "/v1/chat/completions":
            need(likely is None or isinstance(likely, bool), "logprobs must be a boolean")
            need("top_logprobs" not in body or likely is True, "top_logprobs needs logprobs")
            likely = body.get("top_logprobs", 0) if likely else None
        need("tools" in body or not body.keys() & {"tool_choice", "parallel_tool_calls"}, "tool_choice needs tools")
        chosen = body.get("tool_choice", AUTO)
        parameters = Parameters(
            body.get("max_completion_tokens", body.get("max_tokens")),
            stop=tuple(body.get("stop", ())),
            response_format=body.get("response_format"),
            logprobs=likely,
            reasoning_effort=body.get("reasoning_effort"),
        )
        return Ask(
            self._model,
            parameters,
            tuple(map(message_of, body.get("messages", ()))),
            body.get("prompt"),
            bool(body.get("stream")),
            tuple(map(tool_of, body.get("tools", ()))),
            chosen if isinstance(chosen, str) else AUTO,
            "" if isinstance(chosen, str) else chosen["function"]["name"],
            body.get("parallel_tool_calls"),
        )


BEGUN = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "echo", "choices": []}


def message_of(told: Mapping[str, Any]) -> Message:
    """A message, checked."""
    need(
        told["role"] in MESSAGE and told.keys() <= MESSAGE[told["role"]], f"messages: {sorted(told)} of {told['role']}"
    )
    need(told["content"] is not None or bool(told.get("tool_calls")), "messages: content is null")
    need(told["role"] != "tool" or bool(told.get("tool_call_id")), "messages: tool_call_id is missing")
    parts = told["content"] or []
    parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
    calls = []
    for call in told.get("tool_calls", ()):
        need(call.keys() == {"id", "type", "function"} and call["type"] == "function", "messages: tool_calls")
        calls.append(ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]))
    return Message(
        told["role"],
        "\n".join(part["text"] for part in parts if part["type"] == "text"),
        tuple(picture_of(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"),
        tuple(calls),
        told.get("tool_call_id", ""),
    )


def picture_of(url: str) -> Picture:
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return Picture(kind, base64.b64decode(data, validate=True))


def tool_of(told: Mapping[str, Any]) -> Tool:
    """A tool, checked."""
    need(told.keys() == {"type", "function"} and told["type"] == "function", "tools: type")
    function = told["function"]
    need(function.keys() <= {"name", "description", "parameters", "strict"}, "tools: function")
    return Tool(**function)


async def events(first: Chunk, chunks: AsyncIterator[Chunk], path: str) -> AsyncIterator[dict[str, Any]]:
    """The stream: the role, the pieces, why it ended, and what it used in an event of its own."""
    if path == "/v1/chat/completions":
        yield {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    chunk = first
    while chunk.usage is None:
        yield {"choices": [choice_of(chunk, path, "delta")]}
        chunk = await anext(chunks)
    yield {"choices": [choice_of(chunk, path, "delta")]}
    yield usage_of(chunk.usage)


def choice_of(chunk: Chunk, path: str, name: str = "message") -> dict[str, Any]:
    """A choice, or a piece of one."""
    reason = {"index": 0, "finish_reason": chunk.finish_reason}
    if path == "/v1/completions":
        return {"text": chunk.text, **reason, "logprobs": columns(chunk.logprobs)}
    said: dict[str, Any] = {"role": "assistant", "content": chunk.text or None} if name == "message" else {}
    if name == "delta" and chunk.text:
        said["content"] = chunk.text
    if chunk.reasoning:
        said["reasoning_content"] = chunk.reasoning
    if chunk.calls:
        said["tool_calls"] = list(map(call_of, chunk.calls)) if name == "delta" else list(whole(chunk.calls))
    return {name: said, **reason, "logprobs": {"content": chunk.logprobs} if chunk.logprobs else None}


def call_of(piece: CallPiece) -> dict[str, Any]:
    begin = {"id": piece.id, "type": "function"} if piece.id else {}
    name = {"name": piece.name} if piece.name else {}
    return {"index": piece.index, **begin, "function": {**name, "arguments": piece.arguments}}


def whole(pieces: Sequence[CallPiece]) -> Iterator[dict[str, Any]]:
    """The calls, each in one; they have no index then."""
    for begin in (piece for piece in pieces if piece.id):
        arguments = "".join(piece.arguments for piece in pieces if piece.index == begin.index)
        yield {"id": begin.id, "type": "function", "function": {"name": begin.name, "arguments": arguments}}


def columns(logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The older form, that completions have."""
    if not logprobs:
        return None
    others = [{each["token"]: each["logprob"] for each in token["top_logprobs"]} for token in logprobs]
    return {
        "tokens": [token["token"] for token in logprobs],
        "token_logprobs": [token["logprob"] for token in logprobs],
        "top_logprobs": others,
        "text_offset": [0] * len(logprobs),
    }


def usage_of(usage: Usage | None) -> dict[str, Any]:
    assert usage is not None
    return {
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.prompt_tokens // 2},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }
    }


def refused_by(fault: LoquentError) -> Refused:
    """The echo engine's fault as the API says it."""
    if isinstance(fault, ContextOverflow):
        return Refused(400, "This model's maximum context length is exceeded", "context_length_exceeded")
    if isinstance(fault, Invalid):
        return Refused(400, fault.message)
    if isinstance(fault, EngineBusy):
        return Refused(429, "Rate limit reached", "rate_limit_exceeded", fault.retry_after)
    if isinstance(fault, Unavailable):
        return Refused(503, "The server is overloaded")
    return Refused(500, "The server had an error")


def openai_server(key: str, *, context: int | None = None) -> AbstractContextManager[str]:
    """The server in a thread of its own, which ends with the context; its base URL, less ``/v1``."""
    return listening_in_a_thread(Completions(key, context=context))
