"""What a remote engine's refusal means in our own terms, by its status, and how long it says to wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from loquent.domain.errors import (
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    TooLarge,
    Unavailable,
)

MOST_MESSAGE = 300  # characters of the engine's own words that are passed on
LONGEST_WAIT = 86_400.0

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises at bytes that are not the JSON they should be."""


def told(status: int, words: str, name: str) -> str:
    """Our message about it. Status 0: an error inside an answer that began well."""
    return f"model {name}: the engine said {status or 'in its answer'}" + (f": {words[:MOST_MESSAGE]}" if words else "")


def spent(name: str) -> EngineFailed:
    """There is no money left, which waiting does not mend. The engine's words may name the account: left out."""
    return EngineFailed(f"model {name}: the deployment's quota at the engine is spent")


def meaning(status: int, words: str, headers: Mapping[bytes, bytes], name: str, *, field: str = "") -> LoquentError:
    """What a status means where the wire has no closer word for it. ``field``: what Invalid names, if known."""
    message = told(status, words, name)
    if status in (401, 403):  # its words may name the key
        return EngineFailed(f"model {name}: the engine refused the key that this deployment gives it ({status})")
    if status == 429:
        return EngineBusy(message, retry_after=retry_after(headers))
    if status == 408:
        return EngineTimeout(message)
    if status == 413:
        return TooLarge(message)
    if status in (400, 404, 422):
        return Invalid(message, field=field)
    if status >= 500 and status != 501:
        return Unavailable(message, retry_after=retry_after(headers))
    if 300 <= status < 400:
        return EngineFailed(f"model {name}: the engine answered with a redirect ({status}), which is not followed")
    return EngineFailed(message)


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
