"""The caches of the contract: how each is made, and what it declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loquent.caches import connect
from loquent.caches.redis import Redis
from loquent.ports.cache import Cache


@dataclass(frozen=True)
class Made:
    """One kind of cache. ``make`` takes the URL of a server, which some need."""

    name: str
    make: Callable[[str], Cache]
    is_shared: bool = True  # two of them with one URL hold the same


CACHES = (
    Made("memory", lambda _: connect("memory:", size=10_000_000), is_shared=False),
    Made("redis", lambda url: Redis(f"{url}?patience=5")),  # what is slow here is the machine
    Made("levels", lambda url: connect(f"{url}?patience=5", size=10_000_000)),
)
