"""URLs of servers as people write them: whether one can be read, and what may be shown of it: never a password."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from loquent.domain.errors import Misconfigured

CREDENTIALS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*(?::/*|//:?/*))(\S*)@")  # up to the last @: a password may hold all
SECRET = re.compile(r"\b((?:password|passwd|pwd|secret|token|key)=)[^&\s]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """The URL without what a caller could log in with. A name is told only where a password stands behind it."""

    def hidden(found: re.Match[str]) -> str:
        user, colon, _ = found[2].partition(":")
        return f"{found[1]}{user if colon else ''}{colon}…@"

    return SECRET.sub(r"\1…", CREDENTIALS.sub(hidden, url))


def check_server(url: str, setting: str) -> None:
    """Raise Misconfigured, without the URL, where its host, its port or Redis' number of a database cannot be read."""
    try:
        parts = urlsplit(url)
        is_read = parts.port is None or parts.port >= 0
    except ValueError:
        is_read = False
    if not is_read:
        signs = "signs like / @ # % in a password are written %2F %40 %23 %25"
        raise Misconfigured(f"{setting} holds a URL that names no server; {signs}")
    if parts.scheme in ("redis", "rediss") and not parts.path.strip("/").isdigit() and parts.path.strip("/"):
        raise Misconfigured(f"{setting} holds a URL whose database is no number")
