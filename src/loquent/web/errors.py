"""The one table from our errors to HTTP, and the form that errors take on our own surface (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from errno import EDQUOT, ENOSPC
from functools import lru_cache
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from loquent.domain import errors
from loquent.domain.errors import Invalid, LoquentError, NotFound, TooLarge
from loquent.ports.limiter import Rate, State

Headers = list[tuple[bytes, bytes]]
Dressed = tuple[int, Headers, bytes]
Dress = Callable[[LoquentError, str], Dressed]
"""How a surface says an error: status, headers and body, from the error and the request's id."""

STATUS: Mapping[type[LoquentError], int] = {
    errors.TooLarge: 413,
    errors.Unsupported: 415,
    errors.Invalid: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.Cancelled: 409,
    errors.Fenced: 409,
    errors.Limited: 429,
    errors.OutOfSpace: 507,
    errors.Unavailable: 503,
    errors.EngineFailed: 502,
    errors.EngineTimeout: 504,
    errors.LoquentError: 500,
}
"""The nearest ancestor of an error's class counts."""

TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    415: "Unsupported media type",
    421: "Misdirected request",
    422: "Invalid request",
    429: "Too many requests",
    431: "Request header fields too large",
    500: "Internal error",
    502: "The model failed",
    503: "Unavailable",
    504: "The model was too slow",
    507: "Insufficient storage",
}
SHOWN_FAULTS = 3  # faults of one body that a message names


class Plain(LoquentError):
    """An error of HTTP itself, with its status."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.code = TITLES.get(status, "error").lower().replace(" ", "_")


class Refused(HTTPException):
    """One of ours on its way through a library that lets only its own kind of error pass."""

    def __init__(self, error: LoquentError) -> None:
        super().__init__(status(error), error.message)
        self.error = error


def status(error: LoquentError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, Plain):
        return error.status
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def ours(error: Exception) -> LoquentError:
    """Any error that reaches a surface, in our own terms."""
    if isinstance(error, LoquentError):
        return error
    if isinstance(error, Refused):
        return error.error
    if isinstance(error, RequestValidationError | ValidationError):
        return invalid(error)
    if isinstance(fault := error.__cause__ or error, OSError) and fault.errno in (ENOSPC, EDQUOT):
        return errors.OutOfSpace(f"the disk is full ({fault.strerror})")  # of a form's files
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return NotFound("there is nothing at this path")
        if error.status_code == 413:
            return TooLarge(str(error.detail))
        return Plain(error.status_code, str(error.detail), error.headers)
    return Plain(500, "an unexpected fault; the log says more, by the request's id")


def invalid(error: RequestValidationError | ValidationError) -> Invalid:
    """What is wrong with a body or a query, naming the places; never showing what stood there."""
    faults = [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()[:SHOWN_FAULTS]]
    named = [(_place(place), said.removeprefix("Value error, ")) for place, said in faults]
    message = "; ".join(f"{place}: {said}" if place else said for place, said in named)
    return Invalid(message[:1000], field=named[0][0][:200] if named else "")


def _place(path: str) -> str:
    """The place as its sender knows it: without the part of the request that it stood in."""
    return path.removeprefix("body.").removeprefix("query.")


def problem(error: LoquentError, request_id: str) -> Dressed:
    """An error as problem details (RFC 9457)."""
    code = status(error)
    body: dict[str, Any] = {
        "type": f"https://loquent.dev/problems/{error.code}",
        "title": TITLES.get(code, "Error"),
        "status": code,
        "detail": error.message,
        "code": error.code,
        "request_id": request_id,
    }
    if isinstance(error, Invalid) and error.field:
        body["field"] = error.field
    return code, [(b"content-type", b"application/problem+json"), *about(error)], msgspec.json.encode(body)


def detail(error: LoquentError, request_id: str) -> Dressed:
    """An error as four of the five families say it: ``{"detail": text}``."""
    body = msgspec.json.encode({"detail": error.message})
    return status(error), [(b"content-type", b"application/json"), *about(error)], body


def about(error: LoquentError) -> Headers:
    """Headers that an error asks for, on any surface."""
    headers: Headers = []
    after = getattr(error, "retry_after", None)
    if after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(after))))
        headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(after * 1000))))
    if isinstance(error, Plain):
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    if isinstance(error, errors.Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(state := getattr(error, "state", None), State):
        headers += rate_headers(state)
    return headers


def rate_headers(state: State | None) -> Headers:
    """Where the caller stands, in both dialects, from one counter (OpenAI's, and the IETF's draft)."""
    if state is None:
        return []
    left = str(max(0, state.remaining)).encode()
    limit, policy = _rule(state.rate)
    duration, seconds = _reset(state.reset)
    return [
        limit,
        (b"x-ratelimit-remaining-requests", left),
        duration,
        policy,
        (b"ratelimit", b'"requests";r=' + left + seconds),
    ]


@lru_cache(maxsize=64)
def _rule(rate: Rate) -> Headers:
    return [
        (b"x-ratelimit-limit-requests", b"%d" % rate.count),
        (b"ratelimit-policy", b'"requests";q=%d;w=%d' % (rate.count, rate.seconds)),
    ]


@lru_cache(maxsize=64)  # nearly always that of the whole window
def _reset(seconds: float) -> tuple[tuple[bytes, bytes], bytes]:
    return (b"x-ratelimit-reset-requests", _duration(seconds)), b";t=%d" % math.ceil(seconds)


def _duration(seconds: float) -> bytes:
    """As OpenAI writes durations: ``12ms``, ``7.5s``, ``6m0s``; never less than it is."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s".encode()
    minutes, rest = divmod(math.ceil(seconds), 60)
    return b"%dm%ds" % (minutes, rest)
