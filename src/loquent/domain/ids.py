"""Ids: opaque, unguessable, sortable by time, with a short prefix that says of what (``gen_…``)."""

from __future__ import annotations

import os
import uuid
from array import array
from collections.abc import Iterator

from loquent.domain.clock import SECOND, Moment, now

HEX = 32  # digits after the prefix: the 128 bits of a UUID, version 7 (RFC 9562)
VARIANT = 0b10 << 62
_last = 0


def new(prefix: str, moment: Moment | None = None) -> str:
    """A fresh id, of now or of that moment. Later ids of one process are greater, also within one microsecond.

    Where the clock has been set back by more than a moment, ids go back with it: they say when.
    """
    global _last
    moment = moment or now()
    if moment <= _last < moment + SECOND:
        moment = Moment(_last + 1)
    _last = moment
    return f"{prefix}_{(_head(moment) << 64 | VARIANT | _random_64() >> 2).to_bytes(16).hex()}"


def floor(prefix: str, moment: Moment) -> str:
    """The smallest id of that moment: a bound for lists, never a record."""
    return f"{prefix}_{_head(moment):016x}{0:016x}"


def as_uuid(record: str) -> str:
    """The same id in the form of a UUID, for wire forms that have one."""
    return str(uuid.UUID(hex=record.rpartition("_")[2]))


def from_uuid(prefix: str, text: str) -> str | None:
    """The id that a UUID in its canonical form stands for; None where the text is not one."""
    try:
        read = uuid.UUID(text)
    except ValueError:
        return None
    return f"{prefix}_{read.hex}" if str(read) == text.lower() else None


def _numbers() -> Iterator[int]:
    """Numbers of 64 bits from the system's generator, fetched many at a time: a call of it for each costs too much."""
    while True:
        yield from array("Q", os.urandom(2_048))


_random_64 = _numbers().__next__


def _forget() -> None:
    """A child process must not say what its parent will say."""
    global _random_64
    _random_64 = _numbers().__next__


os.register_at_fork(after_in_child=_forget)


def _head(moment: int) -> int:
    """48 bits of milliseconds, the version, and 12 bits of the part of a millisecond (RFC 9562, 6.2, method 3)."""
    milliseconds, rest = divmod(moment, 1_000)
    return (milliseconds & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | (rest * 4096 // 1_000)
