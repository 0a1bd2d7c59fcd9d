"""OpenAI's wire as an engine reads it: what is asked, an answer, a stream of events, and a refusal in our own terms."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from loquent.domain.errors import (
    ContextOverflow,
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    ModelLoading,
    TooLarge,
    Unavailable,
)
from loquent.domain.requests import Message
from loquent.domain.usage import Usage
from loquent.ports.engine import Chunk

MOST_EVENT = 8 * 1024 * 1024  # bytes of one event
MOST_MESSAGE = 300  # characters of the engine's own words that are passed on
LONGEST_WAIT = 86_400.0

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


def answer(data: bytes, content_type: str, name: str) -> Chunk:
    """The whole answer. Raises ours where it is an error in the clothes of a success, or no answer at all."""
    try:
        event = read(data)
    except (msgspec.DecodeError, RecursionError) as broken:
        raise EngineFailed(
            f"model {name}: the engine's answer cannot be read ({content_type or 'no type'})"
        ) from broken
    if event.error is not None:
        raise refusal(0, {}, data, name)
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


class Streamed:
    """One streamed answer: bytes in, chunks out, which carry both the text and the events as they came.

    Each event is read once, as it passes: reading it into the structs above takes half a microsecond, less than to
    search its bytes for what must not pass (an error, the usage, ``[DONE]``), and nothing unread reaches a caller.
    """

    def __init__(self, dialect: str, name: str) -> None:
        self.usage: Usage | None = None
        self.is_over = False
        self._is_finished = False
        self._dialect = dialect
        self._name = name
        self._rest = b""
        self._said = ""  # the model's name as the engine says it, and the bytes that say it
        self._old = self._new = b""

    def take(self, data: bytes) -> Chunk | None:
        """What these bytes complete; None where that is nothing yet."""
        if self._rest:
            data = self._rest + data
        late = b""
        if b"\r" in data:  # JSON has none inside a string: they are line ends
            if data.endswith(b"\r"):  # its \n may be on the way
                data, late = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = data.split(b"\n\n")
        if len(rest) > MOST_EVENT:
            raise EngineFailed(f"model {self._name}: an event of the engine has no end")
        self._rest = rest + late
        return self._chunk(blocks) if blocks else None

    def end(self) -> Chunk | None:
        """The connection is at its end: what is left may be an event without the empty line behind it."""
        last = self._chunk([self._rest.rstrip(b"\r\n")])
        if not self._is_finished and not self.is_over:
            raise EngineFailed(f"model {self._name}: the engine's answer was cut")
        self.is_over = True
        return last

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
        except (msgspec.DecodeError, RecursionError) as broken:
            raise EngineFailed(f"model {self._name}: an event of the engine cannot be read") from broken
        if event.error is not None:
            raise refusal(0, {}, payload, self._name)
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


def payload_of(block: bytes) -> bytes:
    """The data of an event with more than one plain line: comments, names and ids are left out (WHATWG, SSE)."""
    lines = block.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    fields = [line.partition(b":") for line in lines]
    if any(name == b"error" for name, _, _ in fields):  # some say so by the field's name
        lines = [b"data:" + value for name, _, value in fields if name == b"error"]
    data = [line.removeprefix(b"data:").removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b" ".join(data)  # one line again: where lines of JSON meet, a space does as well


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
    told = f"model {name}: the engine said {status or 'in its answer'}" + (f": {words[:MOST_MESSAGE]}" if words else "")
    wait = retry_after(headers)
    too_long = {str(code), kind} & {"context_length_exceeded", "exceed_context_size_error"}
    if too_long or (status in (400, 413) and "context length" in words):
        return ContextOverflow(told, field="messages")
    if status in (401, 403):  # its words may name the key
        return EngineFailed(f"model {name}: the engine refused the key that this deployment gives it ({status})")
    if code == "insufficient_quota":
        return EngineFailed(f"model {name}: the deployment's quota at the engine is spent")
    if status == 429:
        return EngineBusy(told, retry_after=wait)
    if status == 408:
        return EngineTimeout(told)
    if status == 413:
        return TooLarge(told)
    if status in (400, 404, 422):
        return Invalid(told)
    if status == 503 and "loading model" in words.lower():
        return ModelLoading(told, retry_after=wait)
    if status >= 500 and status != 501:
        return Unavailable(told, retry_after=wait)
    if 300 <= status < 400:
        return EngineFailed(f"model {name}: the engine answered with a redirect ({status}), which is not followed")
    return EngineFailed(told)


def fault_of(body: bytes) -> tuple[str, Any, str]:
    """The message, code and type of an error, in the forms that servers give it: OpenAI's, a string, FastAPI's."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return "", None, ""
    fault = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(fault, str):
        return fault, None, ""
    if not isinstance(fault, dict):
        return "", None, ""
    words = fault.get("message") or fault.get("detail") or ""
    return words if isinstance(words, str) else "", fault.get("code"), str(fault.get("type"))


def retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (a number or a date; RFC 9110, section 10.2.3)."""
    milliseconds, wait = headers.get(b"retry-after-ms"), headers.get(b"retry-after")
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif wait is None:
            return None
        elif wait[:1].isdigit():
            seconds = float(wait)
        else:
            moment = parsedate_to_datetime(wait.decode("latin-1"))
            seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_WAIT) if math.isfinite(seconds) else None
