"""What a chat completion and a completion answer on the wire: the whole of it, or chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from loquent.domain.clock import SECOND
from loquent.domain.generations import Content, Generation
from loquent.ports.engine import CallPiece, Chunk

DONE = b"data: [DONE]\n\n"
REASONS = frozenset(("stop", "length", "tool_calls", "content_filter"))
"""The wire has no word for an answer that was cut short on purpose."""


def head(generation: Generation, kind: str, *, chunk: bool) -> dict[str, Any]:
    """What a whole answer and each chunk begin with."""
    name = ("chat.completion.chunk" if chunk else "chat.completion") if kind == "chat" else "text_completion"
    prefix = "chatcmpl" if kind == "chat" else "cmpl"
    return {
        "id": f"{prefix}-{generation.id[4:]}",
        "object": name,
        "created": generation.created_at // SECOND,
        "model": generation.model,
    }


def head_of(wire: bytes, head: dict[str, Any]) -> dict[str, Any]:
    """The same with the id that the first event carries, so that all chunks have one."""
    line = next((line for line in wire.splitlines() if line.startswith(b"data:")), b"")
    try:
        read = msgspec.json.decode(line[5:])
        return {**head, "id": read["id"], "created": read["created"]}
    except (msgspec.DecodeError, KeyError, TypeError):
        return head


def is_said(part: Chunk) -> bool:
    """Whether there is something in it that a caller is shown."""
    return bool(part.text or part.finish_reason or part.calls or part.reasoning or part.logprobs)


def chunk(head: dict[str, Any], part: Chunk, kind: str, *, first: bool) -> bytes:
    """A piece of the answer as an event."""
    said: dict[str, Any] = {"delta": _delta(part, first=first)} if kind == "chat" else {"text": part.text}
    reason = part.finish_reason and _reason(part.finish_reason)
    choice = {"index": 0, **said, "logprobs": _logprobs(part.logprobs), "finish_reason": reason}
    return b"data: %s\n\n" % msgspec.json.encode({**head, "choices": [choice]})


def again(generation: Generation, content: Content) -> Iterator[Chunk]:
    """The pieces of an answer that is on the record."""
    more = content.more or {}
    if reasoning := more.get("reasoning"):
        yield Chunk(reasoning=reasoning)
    if content.output or "logprobs" in more:
        yield Chunk(content.output, logprobs=tuple(more.get("logprobs", ())))
    if calls := more.get("calls"):
        yield Chunk(calls=tuple(CallPiece(index, **each) for index, each in enumerate(calls)))
    yield Chunk(finish_reason=generation.finish_reason)


def end(head: dict[str, Any], generation: Generation) -> bytes:
    """The event that tells the usage."""
    return b"data: %s\n\n" % msgspec.json.encode({**head, "choices": [], "usage": usage(generation)})


def whole(generation: Generation, content: Content, kind: str) -> dict[str, Any]:
    """The whole answer."""
    more = content.more or {}
    said = {"message": _message(content.output, more)} if kind == "chat" else {"text": content.output}
    logprobs = _logprobs(more.get("logprobs"))
    choice = {"index": 0, **said, "logprobs": logprobs, "finish_reason": _reason(generation.finish_reason)}
    return {**head(generation, kind, chunk=False), "choices": [choice], "usage": usage(generation)}


def usage(generation: Generation) -> dict[str, Any]:
    """What it used; the details only where there are some."""
    prompt, completion = generation.prompt_tokens or 0, generation.completion_tokens or 0
    used: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    used["total_tokens"] = prompt + completion
    if generation.details:
        if cached := generation.details.get("cached_tokens"):
            used["prompt_tokens_details"] = {"cached_tokens": cached}
        if reasoning := generation.details.get("reasoning_tokens"):
            used["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return used


def _message(output: str, more: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": output, "refusal": None}
    if more.get("reasoning"):
        message["reasoning_content"] = more["reasoning"]
    if calls := more.get("calls"):
        message["content"] = output or None
        message["tool_calls"] = [_call(each["id"], each["name"], each["arguments"]) for each in calls]
    return message


def _delta(part: Chunk, *, first: bool) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant"} if first else {}
    if part.text or (first and not part.calls and not part.reasoning):
        delta["content"] = part.text
    if part.reasoning:
        delta["reasoning_content"] = part.reasoning
    if part.calls:
        delta["tool_calls"] = [_piece(each) for each in part.calls]
    return delta


def _piece(piece: CallPiece) -> dict[str, Any]:
    """The first piece of a call tells what it is; those behind it go on with the arguments."""
    if piece.name:
        return {"index": piece.index, **_call(piece.id, piece.name, piece.arguments)}
    return {"index": piece.index, "function": {"arguments": piece.arguments}}


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _logprobs(told: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    return {"content": told, "refusal": None} if told else None


def _reason(reason: str | None) -> str:
    return reason if reason in REASONS else "stop"
