"""Where uploaded bytes live: a URL's scheme names the backend, loaded only when used."""

from __future__ import annotations

from importlib import import_module

from loquent.domain.errors import Misconfigured
from loquent.ports.blobs import Blobs

SCHEMES = {"file": "loquent.blobs.file:File"}


def connect(url: str) -> Blobs:
    """The blob store that the URL names; not yet opened. Raises Misconfigured."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise Misconfigured(f"LOQUENT_BLOBS holds {url!r}; it takes one of: {', '.join(SCHEMES)}")
    module, _, name = SCHEMES[scheme].partition(":")
    made: Blobs = getattr(import_module(module), name)(url)
    return made
