"""Queues: a URL's scheme names the backend, loaded only when used."""

from __future__ import annotations

from loquent.ports.backends import named
from loquent.ports.queue import Queue

SCHEMES = {"local": "loquent.queues.local:Local"}


def connect(url: str) -> Queue:
    """The queue that the URL names; not yet opened. Raises Misconfigured."""
    made: Queue = named(url, SCHEMES, "LOQUENT_QUEUE")()
    return made
