"""OpenAI's wire as an engine reads it: what is asked, an answer, a stream of events, and a refusal in our own terms."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loquent.domain.errors import ContextOverflow, EngineFailed, LoquentError, ModelLoading
from loquent.domain.requests import Message
from loquent.domain.usage import Usage
from loquent.engines.events import Events, payload_of
from loquent.engines.refusals import UNREADABLE, meaning, retry_after, spent, told
from loquent.ports.engine import Chunk

encode = msgspec.json.Encoder().encode


class Body(msgspec.Struct, omit_defaults=True):
    """What is asked, under OpenAI's names."""

    model: str
    messages: Sequence[Mapping[str, Any]] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_format: Mapping[str, Any] | None = None
    stream: bool = False
    stream_options: Mapping[str, bool] | None = None


def messages_of(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    """Messages as OpenAI takes them: text alone, or in parts where there are pictures (data URLs)."""
    return [_in_parts(each) if each.pictures else {"role": each.role, "content": each.content} for each in messages]


def _in_parts(message: Message) -> Mapping[str, Any]:
    parts: list[Mapping[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    for picture in message.pictures:
        data = base64.b64encode(picture.data).decode("ascii")
        parts.append({"type": "image_url", "image_url": {"url": f"data:{picture.media_type};base64,{data}"}})
    return {"role": message.role, "content": parts}


# gc=False: these hold no cycles, and a stream makes three of them for each event.


class Said(msgspec.Struct, gc=False):
    """A message, or the next piece of one."""

    content: str | None = None


class Choice(msgspec.Struct, gc=False):
    """One answer: a message of a chat, a piece of it, or the text that goes on from a prompt."""

    message: Said | None = None
    delta: Said | None = None
    text: str | None = None
    finish_reason: str | None = None


class Tokens(msgspec.Struct, gc=False):
    """What the engine counted."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def usage(self) -> Usage:
        """In our own form."""
        return Usage(max(0, self.prompt_tokens or 0), max(0, self.completion_tokens or 0))


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
    text, reason = "", None
    for choice in event.choices[:1]:
        said = choice.message
        text = (said.content if said is not None else choice.text) or ""
        reason = why(choice.finish_reason)
    return Chunk(text, reason, event.usage.usage() if event.usage is not None else None)


def why(reason: str | None) -> str | None:
    """The finish reason in our own terms."""
    if reason is None:
        return None
    return "length" if reason in ("length", "max_tokens") else "stop"


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

    def _chunk(self, blocks: list[bytes]) -> Chunk | None:
        text, reason, wire = "", None, b""
        for block in blocks:
            payload = block[6:] if block.startswith(b"data: ") and b"\n" not in block else payload_of(block)
            if payload == b"[DONE]":  # kept back: the surface says it when the record is written
                self.is_over = True
                break
            if not payload:
                continue
            event = self._event(payload)
            for choice in event.choices[:1]:
                piece = choice.delta.content if choice.delta is not None else choice.text
                if piece:
                    text += piece
                if choice.finish_reason is not None and not self._is_finished:
                    self._is_finished = True
                    reason = why(choice.finish_reason)
            if event.usage is not None:
                self.usage = event.usage.usage()
                if not event.choices:
                    continue
                payload = without_usage(payload)
            if event.model != self._name:  # never the engine's own: it may be a path, or a dated snapshot
                payload = self._renamed(payload, event.model)
            wire += b"data: " + payload + b"\n\n"
        return Chunk(text, reason, None, None, wire, self._dialect) if wire else None

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


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes, name: str, *, secret: str = "") -> LoquentError:
    """What an engine's refusal means in our own terms; status 0: an error inside an answer that began well."""
    words, code, kind = fault_of(body)
    if secret:
        words = words.replace(secret, "…")
    if not status and isinstance(code, int | str) and str(code).isdecimal():
        status = int(code)
    too_long = {str(code), kind} & {"context_length_exceeded", "exceed_context_size_error"}
    if too_long or (status in (400, 413) and "context length" in words):
        return ContextOverflow(told(status, words, name), field="messages")
    if code == "insufficient_quota" and status not in (401, 403):
        return spent(name)
    if status == 503 and "loading model" in words.lower():
        return ModelLoading(told(status, words, name), retry_after=retry_after(headers))
    return meaning(status, words, headers, name)


def fault_of(body: bytes) -> tuple[str, Any, str]:
    """The message, code and type of an error, in the forms that servers give it: OpenAI's, a string, FastAPI's."""
    try:
        said = msgspec.json.decode(body)
    except UNREADABLE:
        return "", None, ""
    fault = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(fault, str):
        return fault, None, ""
    if not isinstance(fault, dict):
        return "", None, ""
    words = fault.get("message") or fault.get("detail") or ""
    return words if isinstance(words, str) else "", fault.get("code"), str(fault.get("type"))
