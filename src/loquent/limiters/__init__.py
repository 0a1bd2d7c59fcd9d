"""Limiters: a URL's scheme names the backend, loaded only when used."""

from __future__ import annotations

from importlib import import_module

from loquent.domain.errors import Misconfigured
from loquent.ports.limiter import Limiter

SCHEMES = {"memory": "loquent.limiters.memory:Memory"}


def connect(url: str) -> Limiter:
    """The limiter that the URL names; not yet opened. Raises Misconfigured."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise Misconfigured(f"LOQUENT_LIMITER holds {url!r}; it takes one of: {', '.join(SCHEMES)}")
    module, _, name = SCHEMES[scheme].partition(":")
    made: Limiter = getattr(import_module(module), name)()
    return made
