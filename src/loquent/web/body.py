"""Bodies: read within bounds of size and time, and as strict JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.types import Message, Receive

from loquent.domain.errors import Invalid, LoquentError, TooLarge, Unavailable, Unsupported
from loquent.web.errors import Plain, Refused, invalid
from loquent.web.wheel import Wheel

M = TypeVar("M", bound=BaseModel)
DEEPEST = 64  # levels of nesting
LARGEST = 2**63 - 1
CUT = "the body broke off before its end"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Wire(BaseModel):
    """A body: nothing unknown, nothing converted, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class HungUp(Exception):
    """The client has gone."""


class Bounded:
    """A request's ``receive`` with a bound on the bytes of its body, and on the time that they take to come.

    When the wheel comes round, the task that waits for them is cancelled where it waits. ``length``: what the headers
    promise; with the last of that the body is whole, though a server may say so only when it is asked once more, at
    the price of a turn through its own threads.
    """

    __slots__ = ("_deadline", "_got", "_late", "_length", "_loop", "_most", "_receive", "_waiter", "_wheel", "_whole")

    def __init__(self, receive: Receive, wheel: Wheel, *, most: int, length: int | None = None) -> None:
        self._receive = receive
        self._waiter: asyncio.Task[Any] | None = None
        self._most, self._length = most, length
        self._wheel = wheel
        self._got = 0
        self._late = self._whole = False
        self._deadline = wheel.add(self._ring)
        self._loop = wheel.loop

    async def __call__(self) -> Message:
        """See ASGI. Raises Refused where a bound is passed."""
        if self._whole:
            return await self._receive()
        self._check_time()
        self._waiter = waiter = asyncio.current_task(self._loop)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._late and waiter is not None and waiter.uncancel() == 0:
                self._check_time()
            raise
        finally:
            self._waiter = None
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            if self._got > self._most:
                raise Refused(TooLarge(f"the body is over {self._most} bytes"))
            if self._got == self._length:
                message["more_body"] = False
            self._whole = not message.get("more_body", False)
        else:
            self._whole = True
        if self._whole:
            self._deadline.call = None
        return message

    def close(self) -> None:
        """The request is answered: nothing is waited for any more."""
        self._deadline.call = None

    def _ring(self) -> None:
        self._late = True
        if self._waiter is not None:  # a body that nobody reads keeps nobody waiting
            self._waiter.cancel()

    def _check_time(self) -> None:
        if self._late and self._wheel.is_over:
            raise Refused(Unavailable("the server is stopping", retry_after=5)) from None
        if self._late:
            raise Refused(Plain(408, f"the body did not come within {self._wheel.seconds:g} seconds")) from None


async def read_body(receive: Receive) -> bytes:
    """The whole body. Raises Plain where it breaks off: the client has gone, or it was no HTTP."""
    message = await receive()
    if message["type"] != "http.request":
        raise Plain(400, CUT)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    parts = [body]
    while message.get("more_body", False):
        message = await receive()
        if message["type"] != "http.request":
            raise Plain(400, CUT)
        parts.append(message.get("body", b""))
    return b"".join(parts)


def check_size(body: bytes, most: int) -> None:
    """Raise TooLarge where a body has more than that many bytes beside what stands in base64 within it: pictures."""
    rest, end = len(body), 0
    while rest > most and (begin := body.find(b";base64,", end)) >= 0 and (end := body.find(b'"', begin)) >= 0:
        rest -= end - begin
    if rest > most:
        raise TooLarge(f"the body is over {most} bytes, without its pictures")


def read_json(body: bytes, decoder: json.JSONDecoder | None = None) -> Any:
    """What a JSON body says (RFC 8259, I-JSON); by default strictly. Raises Invalid naming what is wrong with it."""
    if not body:
        raise Invalid("the body is empty; it takes JSON")
    try:
        read = (decoder or STRICT).decode(body.decode())
    except UnicodeDecodeError as error:
        raise Invalid(f"the body is not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error.msg}, at character {error.pos}") from None
    except RecursionError:
        raise Invalid(f"the body is nested deeper than {DEEPEST} levels") from None
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        _check_depth(read)
    if b"\\u" in body:
        _check_text(read)
    return read


def validate(model: type[M], read: Any) -> M:
    """The body as the model wants it. Raises Invalid naming the places."""
    try:
        return model.model_validate(read)
    except ValidationError as error:
        raise invalid(error) from None


def check_is_json(content_type: str | bytes | None) -> None:
    """Raise Unsupported where a body does not say that it is JSON: a page elsewhere cannot say so by a plain form."""
    if content_type == b"application/json":
        return
    said = (content_type.decode("latin-1") if isinstance(content_type, bytes) else content_type) or ""
    media = said.partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise Unsupported(f"the body takes Content-Type: application/json, not {media[:100] or 'none'!r}")


def check_is_form(content_type: str | None) -> None:
    """Raise Unsupported where a body does not say that it is a form."""
    media = (content_type or "").partition(";")[0].strip().lower()
    if media not in FORMS:
        raise Unsupported(f"the body takes Content-Type: {' or '.join(FORMS)}, not {media[:100] or 'none'!r}")


class StrictRequest(Request):
    """A request whose JSON is read as strictly as on the direct routes."""

    async def json(self) -> Any:
        """See read_json."""
        try:
            return read_json(await self.body())
        except LoquentError as error:
            raise Refused(error) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(f"the key {twice[:100]!r} stands twice in one object", field=twice[:100])
    return made


def _constant(text: str) -> Any:
    raise Invalid(f"{text} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Invalid(f"the number {text[:40]} is out of range")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > LARGEST:
        raise Invalid(f"the number {text[:40]} is out of range")
    return value


def _number(text: str) -> int | float:
    return int(text) if len(text) <= 20 else float(text)


STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int)
LOOSE = json.JSONDecoder(object_pairs_hook=_object, parse_constant=float, parse_float=float, parse_int=_number)
"""Takes numbers that are none, or out of range, as such: for who answers to them in words of their own."""


def _walk(read: Any, see: Callable[[Any, int], None]) -> None:
    """Every value and key, with its depth, without recursion."""
    todo: list[tuple[Any, int]] = [(read, 1)]
    while todo:
        value, depth = todo.pop()
        see(value, depth)
        if isinstance(value, dict):
            todo.extend((each, depth + 1) for pair in value.items() for each in pair)
        elif isinstance(value, list):
            todo.extend((each, depth + 1) for each in value)


def _check_depth(read: Any) -> None:
    def see(value: Any, depth: int) -> None:
        if depth > DEEPEST and isinstance(value, dict | list):
            raise Invalid(f"the body is nested deeper than {DEEPEST} levels")

    _walk(read, see)


def _check_text(read: Any) -> None:
    def see(value: Any, _: int) -> None:
        if isinstance(value, str):
            if "\0" in value:
                raise Invalid("a text holds NUL (\\u0000), which no store can keep")
            if any("\ud800" <= each <= "\udfff" for each in value):
                raise Invalid("a text holds half of a surrogate pair, which is no character")

    _walk(read, see)
