"""Where uploaded bytes live: a URL's scheme names the backend, loaded only when used."""

from __future__ import annotations

from loquent.ports.backends import named
from loquent.ports.blobs import Blobs

SCHEMES = {"file": "loquent.blobs.file:File"}


def connect(url: str) -> Blobs:
    """The blob store that the URL names; not yet opened. Raises Misconfigured."""
    made: Blobs = named(url, SCHEMES, "LOQUENT_BLOBS")(url)
    return made
