"""Limiters: a URL's scheme names the backend, loaded only when used."""

from __future__ import annotations

from loquent.ports.backends import named
from loquent.ports.limiter import Limiter

SCHEMES = {
    "memory": "loquent.limiters.memory:Memory",
    "redis": "loquent.limiters.redis:Redis",
    "rediss": "loquent.limiters.redis:Redis",
}


def connect(url: str) -> Limiter:
    """The limiter that the URL names; not yet opened. Raises Misconfigured."""
    made: Limiter = named(url, SCHEMES, "LOQUENT_LIMITER")(url)
    return made
