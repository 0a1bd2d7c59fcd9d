"""Anthropic's Messages wire as an engine reads it: an answer, and a stream of events.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming, handling-stop-reasons beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from loquent.domain.errors import EngineFailed
from loquent.domain.usage import Usage
from loquent.engines.anthropic_refusals import refusal
from loquent.engines.events import Events, payload_of
from loquent.engines.refusals import UNREADABLE
from loquent.ports.engine import CallPiece, Chunk


class Details(msgspec.Struct):
    """What the tokens of the answer were for."""

    thinking_tokens: int | None = None


class Tokens(msgspec.Struct):
    """What the engine counted so far; in a stream each count takes the place of the one before it."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: Details | None = None

    def over(self, before: Tokens | None) -> Tokens:
        """These, and those that came before where these say nothing."""
        if before is None:
            return self
        names = self.__struct_fields__
        return Tokens(*(getattr(before if getattr(self, name) is None else self, name) for name in names))

    def usage(self) -> Usage:
        """In our own form. ``input_tokens`` are only those that no cache had or took: the prompt is all three."""
        cached = max(0, self.cache_read_input_tokens or 0)
        new = max(0, self.input_tokens or 0) + max(0, self.cache_creation_input_tokens or 0)
        details = self.output_tokens_details
        thought = max(0, details.thinking_tokens or 0) if details is not None else 0
        said = max(0, self.output_tokens or 0)
        return Usage(new + cached, said, cached_tokens=cached, reasoning_tokens=min(thought, said))


class Block(msgspec.Struct):
    """A part of the answer, or the next piece of one: text, thinking or the call of a tool, which ``type`` says."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")
    partial_json: str = ""


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
    """content_block_start: what it holds is empty as a rule."""

    content_block: Block
    index: int = 0


class Piece(msgspec.Struct):
    """content_block_delta."""

    delta: Block
    index: int = 0


class BlockStopped(msgspec.Struct):
    """content_block_stop."""

    index: int = 0


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
    "content_block_stop": msgspec.json.Decoder(BlockStopped).decode,
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
    called = [block for block in said.content if block.type == "tool_use"]
    return Chunk(
        "".join(block.text for block in said.content if block.type == "text"),
        why(said.stop_reason),
        said.usage.usage() if said.usage is not None else None,
        calls=tuple(begun(number, block, name, taken_by(block, name)) for number, block in enumerate(called)),
        reasoning="".join(block.thinking for block in said.content if block.type == "thinking"),
    )


def begun(number: int, block: Block, name: str, arguments: str = "") -> CallPiece:
    """The first piece of a call."""
    if not block.id or not block.name:
        raise EngineFailed(f"model {name}: the engine calls a tool that it does not name")
    return CallPiece(number, block.id, block.name, arguments)


def taken_by(block: Block, name: str) -> str:
    """The arguments of a call, as they came: they are JSON already."""
    try:
        arguments = bytes(block.input).decode()
    except UnicodeDecodeError as broken:
        raise EngineFailed(f"model {name}: the arguments of a call cannot be read") from broken
    return "{}" if arguments == "null" else arguments


REASONS: Mapping[str, str] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # there would be more of it
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def why(reason: str | None) -> str | None:
    """The finish reason in our own terms."""
    return None if reason is None else REASONS.get(reason, "stop")


class Streamed(Events):
    """One streamed answer: its events in, what they say out. The usage is what the last counts come to."""

    def __init__(self, name: str, secret: str = "") -> None:
        super().__init__(name, secret)
        self._counted: Tokens | None = None
        self._calls = 0
        self._open: dict[int, tuple[int, str]] = {}  # block -> which call it is, and what it takes if no more comes

    def _chunk(self, blocks: list[bytes]) -> Chunk | None:
        said = Chunk()
        for block in blocks:
            payload = payload_of(block)
            if not payload:
                continue
            kind, event = self._event(payload)
            if kind == "message_stop":
                self.is_over = True
                break
            if event is not None:
                self._hear(event, said)
        return said if said.text or said.finish_reason or said.calls or said.reasoning else None

    def _hear(self, event: Any, said: Chunk) -> None:
        """Add to ``said`` what one event says."""
        if isinstance(event, Piece):
            delta = event.delta
            if delta.type == "text_delta":
                said.text += delta.text
            elif delta.type == "thinking_delta":
                said.reasoning += delta.thinking
            elif delta.type == "input_json_delta" and delta.partial_json and event.index in self._open:
                number, _ = self._open[event.index]
                self._open[event.index] = number, ""
                said.calls += (CallPiece(number, arguments=delta.partial_json),)
        elif isinstance(event, BlockStarted):
            self._begin(event.index, event.content_block, said)
        elif isinstance(event, BlockStopped):
            number, left = self._open.pop(event.index, (0, ""))
            if left:  # none of it came in pieces: so it is where a tool takes nothing
                said.calls += (CallPiece(number, arguments=left),)
        elif isinstance(event, Started):
            self._count(event.message.usage)
        else:
            self._count(event.usage)
            if event.delta.stop_reason is not None and not self._is_finished:
                self._is_finished = True
                said.finish_reason = why(event.delta.stop_reason)

    def _begin(self, index: int, block: Block, said: Chunk) -> None:
        self._open.pop(index, None)
        if block.type == "text":
            said.text += block.text
        elif block.type == "thinking":
            said.reasoning += block.thinking
        elif block.type == "tool_use":
            said.calls += (begun(self._calls, block, self._name),)
            self._open[index] = self._calls, taken_by(block, self._name)
            self._calls += 1

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
