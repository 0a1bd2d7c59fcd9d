"""Queues: a URL's scheme names the backend, loaded only when used."""

from __future__ import annotations

from importlib import import_module

from loquent.domain.errors import Misconfigured
from loquent.ports.queue import Queue

SCHEMES = {"local": "loquent.queues.local:Local"}


def connect(url: str) -> Queue:
    """The queue that the URL names; not yet opened. Raises Misconfigured."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise Misconfigured(f"LOQUENT_QUEUE holds {url!r}; it takes one of: {', '.join(SCHEMES)}")
    module, _, name = SCHEMES[scheme].partition(":")
    made: Queue = getattr(import_module(module), name)()
    return made
