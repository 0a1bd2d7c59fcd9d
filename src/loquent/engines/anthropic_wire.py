"""Anthropic's Messages wire as an engine reads it: an answer, a stream of events, and a refusal in our own terms.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming, handling-stop-reasons beside it; api/errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from loquent.domain.errors import ContextOverflow, EngineBusy, EngineFailed, LoquentError
from loquent.domain.usage import Usage
from loquent.engines.events import Events, payload_of
from loquent.engines.refusals import UNREADABLE, meaning, retry_after, spent, told
from loquent.ports.engine import Chunk


class Tokens(msgspec.Struct):
    """What the engine counted so far; in a stream each count takes the place of the one before it."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None

    def over(self, before: Tokens | None) -> Tokens:
        """These, and those that came before where these say nothing."""
        if before is None:
            return self
        names = self.__struct_fields__
        return Tokens(*(getattr(before if getattr(self, name) is None else self, name) for name in names))

    def usage(self) -> Usage:
        """In our own form. ``input_tokens`` are only those that no cache had or took: the prompt is all three."""
        read = (self.input_tokens, self.cache_creation_input_tokens, self.cache_read_input_tokens)
        return Usage(sum(max(0, count or 0) for count in read), max(0, self.output_tokens or 0))


class Block(msgspec.Struct):
    """A part of the answer: text, or something that is not for the caller (thinking, a call of a tool)."""

    type: str = ""
    text: str = ""


class Answer(msgspec.Struct):
    """A whole answer, or how it stands when a stream begins."""

    content: list[Block] = []
    stop_reason: str | None = None
    usage: Tokens | None = None


class Kind(msgspec.Struct):
    """What sort of thing this is; read first, since new sorts may come at any time and are passed over."""

    type: str = ""
    error: Any = None


class Started(msgspec.Struct):
    """message_start."""

    message: Answer


class BlockStarted(msgspec.Struct):
    """content_block_start: its text is empty as a rule."""

    content_block: Block


class Piece(msgspec.Struct):
    """content_block_delta."""

    delta: Block


class Changed(msgspec.Struct):
    """message_delta: why the answer ends, and the counts so far."""

    delta: Answer
    usage: Tokens | None = None


read_kind = msgspec.json.Decoder(Kind).decode
read_answer = msgspec.json.Decoder(Answer).decode
read_event: Mapping[str, Any] = {
    "message_start": msgspec.json.Decoder(Started).decode,
    "content_block_start": msgspec.json.Decoder(BlockStarted).decode,
    "content_block_delta": msgspec.json.Decoder(Piece).decode,
    "message_delta": msgspec.json.Decoder(Changed).decode,
}


def answer(data: bytes, content_type: str, name: str, *, secret: str = "") -> Chunk:
    """The whole answer. Raises ours where it is an error in the clothes of a success, or no answer at all."""
    unreadable = f"model {name}: the engine's answer cannot be read ({content_type or 'no type'})"
    try:
        kind, said = read_kind(data), read_answer(data)
    except UNREADABLE as broken:
        raise EngineFailed(unreadable) from broken
    if kind.error is not None:
        raise refusal(0, {}, data, name, secret=secret)
    if kind.type != "message":
        raise EngineFailed(unreadable)
    text = "".join(block.text for block in said.content if block.type == "text")
    return Chunk(text, why(said.stop_reason), said.usage.usage() if said.usage is not None else None)


def why(reason: str | None) -> str | None:
    """The finish reason in our own terms."""
    if reason is None:
        return None
    return "length" if reason in ("max_tokens", "model_context_window_exceeded") else "stop"


class Streamed(Events):
    """One streamed answer: its events in, its text out. The usage is what the last counts come to."""

    _counted: Tokens | None = None

    def _chunk(self, blocks: list[bytes]) -> Chunk | None:
        text, reason = "", None
        for block in blocks:
            payload = payload_of(block)
            if not payload:
                continue
            kind, event = self._event(payload)
            if kind == "message_stop":
                self.is_over = True
                break
            if isinstance(event, Piece):
                text += event.delta.text if event.delta.type == "text_delta" else ""
            elif isinstance(event, BlockStarted):
                text += event.content_block.text if event.content_block.type == "text" else ""
            elif isinstance(event, Started):
                self._count(event.message.usage)
            elif isinstance(event, Changed):
                self._count(event.usage)
                if event.delta.stop_reason is not None and not self._is_finished:
                    self._is_finished = True
                    reason = why(event.delta.stop_reason)
        return Chunk(text, reason) if text or reason else None

    def _event(self, payload: bytes) -> tuple[str, Any]:
        try:
            kind = read_kind(payload)
            event = read_event[kind.type](payload) if kind.type in read_event else None
        except UNREADABLE as broken:
            raise EngineFailed(f"model {self._name}: an event of the engine cannot be read") from broken
        if kind.type == "error" or kind.error is not None:
            raise refusal(0, {}, payload, self._name, secret=self._secret)
        return kind.type, event

    def _count(self, tokens: Tokens | None) -> None:
        if tokens is not None:
            self._counted = tokens.over(self._counted)
            self.usage = self._counted.usage()


STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that goes with each type of error (api/errors): inside a stream there is only the type."""

FIELDS: Mapping[str, str] = {
    "output_config": "response_format",
    "stop_sequences": "stop",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "messages": "messages",
}
"""What a refusal speaks of, and what we call it."""


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes, name: str, *, secret: str = "") -> LoquentError:
    """What an engine's refusal means in our own terms; status 0: an error inside an answer that began well."""
    words, kind, code = fault_of(body)
    if secret:
        words = words.replace(secret, "…")
    status = status or STATUSES.get(kind, 0)
    # There is no code for these, so the words are all there is to know them by.
    if status == 400 and ("prompt is too long" in words or "exceed context limit" in words):
        return ContextOverflow(told(status, words, name), field="messages")
    is_spent = code.endswith("spend_limit_reached") or "credit balance" in words or "API usage limits" in words
    if status == 402 or (status in (400, 429) and is_spent):
        return spent(name)
    if status == 529:
        return EngineBusy(told(status, words, name), retry_after=retry_after(headers))
    field = next((ours for theirs, ours in FIELDS.items() if theirs in words), "")
    return meaning(status, words, headers, name, field=field)


class Fault(msgspec.Struct):
    """An error: its type, its words, and sometimes a code that is finer than the type."""

    type: str = ""
    message: str = ""
    details: Any = None


class Refused(msgspec.Struct):
    """The body of a refusal, and the data of an ``error`` event."""

    error: Fault


def fault_of(body: bytes) -> tuple[str, str, str]:
    """The words, type and code of an error; empty where it has another form, as of a proxy on the way."""
    try:
        fault = msgspec.json.decode(body, type=Refused).error
    except UNREADABLE:
        return "", "", ""
    code = fault.details.get("error_code") if isinstance(fault.details, dict) else None
    return fault.message, fault.type, code if isinstance(code, str) else ""
