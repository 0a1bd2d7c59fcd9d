"""OpenAI's wire as an engine reads it: an answer, and a stream of events, in our own terms."""

from __future__ import annotations

from typing import Any

import msgspec

from loquent.domain.errors import EngineFailed
from loquent.domain.usage import Usage
from loquent.engines.events import Events, payload_of
from loquent.engines.openai_ask import encode
from loquent.engines.openai_logprobs import Logprobs
from loquent.engines.openai_refusals import refusal
from loquent.engines.refusals import UNREADABLE
from loquent.ports.engine import CallPiece, Chunk

# gc=False: these hold no cycles, and a stream makes three of them for each event.


class Function(msgspec.Struct, gc=False):
    """Which tool is called, and with what."""

    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct, gc=False):
    """A call of a tool, or the next piece of one."""

    index: int | None = None
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Said(msgspec.Struct, gc=False):
    """A message, or the next piece of one. Thoughts have either name: DeepSeek's, or OpenRouter's, which vLLM took."""

    content: str | None = None
    tool_calls: list[Call] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class Choice(msgspec.Struct, gc=False):
    """One answer: a message of a chat, a piece of it, or the text that goes on from a prompt."""

    message: Said | None = None
    delta: Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class PromptDetails(msgspec.Struct, gc=False):
    """Of the prompt's tokens, those that count apart."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    """Of the answer's tokens, those that count apart."""

    reasoning_tokens: int | None = None


class Tokens(msgspec.Struct, gc=False):
    """What the engine counted."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def usage(self) -> Usage:
        """In our own form."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            max(0, self.prompt_tokens or 0),
            max(0, self.completion_tokens or 0),
            cached_tokens=max(0, prompt.cached_tokens or 0) if prompt is not None else 0,
            reasoning_tokens=max(0, completion.reasoning_tokens or 0) if completion is not None else 0,
        )


class Event(msgspec.Struct, gc=False):
    """An answer, or one event of a stream: the fields that matter here."""

    choices: list[Choice] = []
    model: str = ""
    usage: Tokens | None = None
    error: Any = None


read = msgspec.json.Decoder(Event).decode


def answer(data: bytes, content_type: str, name: str, *, secret: str = "") -> Chunk:
    """The whole answer. Raises ours where it is an error in the clothes of a success, or no answer at all."""
    try:
        event = read(data)
    except UNREADABLE as broken:
        raise EngineFailed(
            f"model {name}: the engine's answer cannot be read ({content_type or 'no type'})"
        ) from broken
    if event.error is not None:
        raise refusal(0, {}, data, name, secret=secret)
    chunk = Chunk(usage=event.usage.usage() if event.usage is not None else None)
    for choice in event.choices[:1]:
        said = choice.message
        chunk.text = (said.content if said is not None else choice.text) or ""
        chunk.finish_reason = why(choice.finish_reason)
        add(chunk, choice, said, Calls())
    return chunk


REASONS = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def why(reason: str | None) -> str | None:
    """The finish reason in our own terms."""
    return None if reason is None else REASONS.get(reason, "stop")


class Calls:
    """Which call each piece belongs to. Some servers number none of them, or give all the same number."""

    def __init__(self) -> None:
        self._ids: list[str] = []  # by our number
        self._known: dict[int, int] = {}  # theirs -> ours

    def piece(self, call: Call) -> CallPiece:
        """The piece in our own form."""
        told, id, name = call.index or 0, call.id or "", call.function.name or ""
        at = self._known.get(told)
        if at is None or (id and name and id != self._ids[at]):  # a new id and a name begin a new one
            at = self._known[told] = len(self._ids)
            self._ids.append(id)
        return CallPiece(at, id, name, call.function.arguments or "")


def add(chunk: Chunk, choice: Choice, said: Said | None, calls: Calls) -> None:
    """What few answers have: thoughts, calls of tools, a refusal in the model's own words, how likely tokens were."""
    if said is not None:
        chunk.text += said.refusal or ""
        chunk.reasoning += said.reasoning_content or said.reasoning or ""
        if said.tool_calls:
            chunk.calls += tuple(map(calls.piece, said.tool_calls))
    if choice.logprobs is not None:
        chunk.logprobs += choice.logprobs.told()


class Streamed(Events):
    """One streamed answer: bytes in, chunks out, which carry both the text and the events as they came.

    Each event is read once, as it passes: reading it into the structs above takes half a microsecond, less than to
    search its bytes for what must not pass (an error, the usage, ``[DONE]``), and nothing unread reaches a caller.
    """

    def __init__(self, dialect: str, name: str, secret: str = "") -> None:
        super().__init__(name, secret)
        self._dialect = dialect
        self._said = ""  # the model's name as the engine says it, and the bytes that say it
        self._old = self._new = b""
        self._calls: Calls | None = None

    def _chunk(self, blocks: list[bytes]) -> Chunk | None:
        text, reason, wire = "", None, b""
        more: Chunk | None = None
        for block in blocks:
            payload = block[6:] if block.startswith(b"data: ") and b"\n" not in block else payload_of(block)
            if payload == b"[DONE]":  # kept back: the surface says it when the record is written
                self.is_over = True
                break
            if not payload:
                continue
            event = self._event(payload)
            choices = event.choices
            if choices:
                choice = choices[0]
                said = choice.delta
                piece = said.content if said is not None else choice.text
                if piece:
                    text += piece
                if choice.logprobs is not None or (
                    said is not None
                    and (said.tool_calls or said.reasoning_content or said.reasoning or said.refusal) is not None
                ):
                    more = self._more(more, choice, said)
                if choice.finish_reason is not None and not self._is_finished:
                    self._is_finished = True
                    reason = why(choice.finish_reason)
            if event.usage is not None:
                self.usage = event.usage.usage()
                if not choices:
                    continue
                payload = without_usage(payload)
            if event.model != self._name:  # never the engine's own: it may be a path, or a dated snapshot
                payload = self._renamed(payload, event.model)
            wire += b"data: " + payload + b"\n\n"
        if not wire:
            return None
        chunk = Chunk(text, reason, None, None, wire, self._dialect)
        if more is not None:
            chunk.text += more.text
            chunk.calls, chunk.reasoning, chunk.logprobs = more.calls, more.reasoning, more.logprobs
        return chunk

    def _more(self, more: Chunk | None, choice: Choice, said: Said | None) -> Chunk:
        if self._calls is None:
            self._calls = Calls()
        more = more or Chunk()
        add(more, choice, said, self._calls)
        return more

    def _event(self, payload: bytes) -> Event:
        try:
            event = read(payload)
        except UNREADABLE as broken:
            raise EngineFailed(f"model {self._name}: an event of the engine cannot be read") from broken
        if event.error is not None:
            raise refusal(0, {}, payload, self._name, secret=self._secret)
        return event

    def _renamed(self, payload: bytes, said: str) -> bytes:
        """The event under the name that callers use.

        The pair cannot be hit inside a string: there its quotes would stand behind backslashes, and so be other bytes.
        """
        if said != self._said:
            self._said = said
            self._old, self._new = b'"model":' + encode(said), b'"model":' + encode(self._name)
        renamed = payload.replace(self._old, self._new)
        if renamed == payload and said:  # written with spaces or escapes
            renamed = encode({**msgspec.json.decode(payload, type=dict[str, msgspec.Raw]), "model": self._name})
        return renamed


def without_usage(payload: bytes) -> bytes:
    """The same event where the engine put its usage into one that also carries text."""
    kept = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    del kept["usage"]
    return encode(kept)
