"""Kept answers on the wire: a header that says whether one will do, and one that says whether it was one."""

from __future__ import annotations

from loquent.domain.errors import Invalid
from loquent.services.wanted import Begun
from loquent.web.errors import Headers

NAME = "X-Loquent-Cache"
WISHES = {b"on": True, b"off": False}
HIT: Headers = [(b"x-loquent-cache", b"hit")]
MISS: Headers = [(b"x-loquent-cache", b"miss")]


def wish(header: bytes | None) -> bool | None:
    """Whether the caller takes a kept answer; None: he did not say. Raises Invalid."""
    if header is None:
        return None
    if (said := WISHES.get(header.strip().lower())) is None:
        raise Invalid(f"{NAME} takes on or off", field=NAME)
    return said


def kept(begun: Begun) -> Headers:
    """Whether the answer was a kept one, as soon as that is known; nothing where it could not be."""
    details = begun.live.details if begun.live is not None else begun.generation.details
    said = details.get("cache") if details else None
    return [] if said is None else HIT if said["hit"] else MISS
