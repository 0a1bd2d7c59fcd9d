"""What may be shown of a URL: never a password, however the URL is misspelt."""

from __future__ import annotations

import re

CREDENTIALS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*(?::/*|//:?/*))(\S*)@")  # up to the last @: a password may hold all
SECRET = re.compile(r"\b((?:password|passwd|pwd|secret|token|key)=)[^&\s]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """The URL without what a caller could log in with. A name is told only where a password stands behind it."""

    def hidden(found: re.Match[str]) -> str:
        user, colon, _ = found[2].partition(":")
        return f"{found[1]}{user if colon else ''}{colon}…@"

    return SECRET.sub(r"\1…", CREDENTIALS.sub(hidden, url))
