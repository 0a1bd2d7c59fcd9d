"""Caches: a URL's scheme names the backend, loaded only when used; before a shared one stands a level of memory."""

from __future__ import annotations

from loquent.caches.levels import Levels
from loquent.caches.memory import Memory
from loquent.ports.backends import named
from loquent.ports.cache import Cache

SCHEMES = {"memory": "loquent.caches.memory:Memory", "redis": "loquent.caches.redis:Redis"}


def connect(url: str, *, size: int) -> Cache:
    """The cache that the URL names, not yet opened; ``size``: bytes of its level in memory. Raises Misconfigured."""
    kind = named(url.replace("rediss:", "redis:", 1), SCHEMES, "LOQUENT_CACHE")
    near = Memory(size)
    return near if kind is Memory else Levels(near, kind(url))
