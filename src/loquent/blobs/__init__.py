"""Where uploaded bytes live: a URL's scheme names the backend, loaded only when used."""

from __future__ import annotations

import re
from pathlib import Path

from loquent.domain.errors import Invalid
from loquent.ports.backends import named
from loquent.ports.blobs import Blobs

SCHEMES = {"file": "loquent.blobs.file:File", "s3": "loquent.blobs.s3:S3"}
KEY = re.compile(r"[a-z]{1,40}/[a-z0-9_]{2,200}")


def connect(url: str) -> Blobs:
    """The blob store that the URL names; not yet opened. Raises Misconfigured."""
    made: Blobs = named(url, SCHEMES, "LOQUENT_BLOBS")(url)
    return made


def folder_of(url: str) -> Path | None:
    """The folder that a ``file:`` URL names; None where it names none."""
    said = re.fullmatch(r"file:(?://(?:localhost)?)?(/(?!/).*)", url)
    return Path(said[1]) if said else None


def checked(key: str) -> str:
    """The key itself, where it is one of ours: a word, a slash and an id. Raises Invalid: nothing else is a path."""
    if KEY.fullmatch(key) is None:
        raise Invalid("this is no key of a blob")
    return key
