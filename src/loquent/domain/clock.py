"""The clock, read through one function, in whole microseconds since 1970 (UTC)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import NewType

Moment = NewType("Moment", int)
"""A point in time: microseconds since 1970-01-01 UTC. Integers sort, store and compare alike everywhere."""

SECOND = 1_000_000


def now() -> Moment:
    """The present."""
    return Moment(time.time_ns() // 1_000)


def later(moment: Moment, seconds: float) -> Moment:
    """The moment that many seconds after (or, negative, before)."""
    return Moment(moment + int(seconds * SECOND))


def iso(moment: Moment) -> str:
    """ISO 8601 in UTC with microseconds: ``2026-11-22T10:00:00.000000Z``."""
    return datetime.fromtimestamp(moment / SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_iso(text: str) -> Moment:
    """The moment that an ISO 8601 text names; one without an offset is UTC. Raises ValueError."""
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        read = read.replace(tzinfo=UTC)
    return Moment(int(read.timestamp() * SECOND))


def day(moment: Moment) -> str:
    """The UTC day: ``2026-11-22``."""
    return datetime.fromtimestamp(moment / SECOND, UTC).strftime("%Y-%m-%d")
