"""The registry: rows of models that an administrator added while the program runs, beside those of the settings."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from loquent.domain.clock import Moment
from loquent.domain.errors import Misconfigured
from loquent.domain.fixed import fixed
from loquent.domain.generations import Json
from loquent.domain.models import Model, from_row

NAME = re.compile(r"[^\s/](?:.{0,198}[^\s/])?")  # slashes within: openai/gpt-5, as OpenRouter has them
SETTINGS_ONLY = ("key_file",)
"""Fields that only the operator sets: they name what lies on the server's own disk."""


@fixed
class ModelRow:
    """A row as it was given: the fields of a Model, as a file of rows has them."""

    id: str
    version: int
    name: str
    row: Json
    created_at: Moment
    updated_at: Moment
    created_by: str  # the id of the administrator


def checked(row: Json) -> Model:
    """The model of an added row. Raises Misconfigured naming the field, never showing what may be a secret."""
    for name in SETTINGS_ONLY:
        if name in row:
            raise Misconfigured(f"the row: {name} is for rows of the settings", field=name)
    if has_secret(row.get("url")):
        said = "takes no user, password, query or fragment; a key goes in key_env"
        raise Misconfigured(f"the row: url {said}", field="url")
    model = from_row(row, "the row")
    if not NAME.fullmatch(model.name) or not model.name.isprintable():
        said = "takes 1 to 200 printable characters, no space or slash at either end"
        raise Misconfigured(f"the row: name {said}", field="name")
    return model


def has_secret(url: object) -> bool:
    """Whether a URL holds more than a place: what may be a secret, and goes to logs and lists with it."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return "@" in url
    return "@" in parts.netloc or bool(parts.query or parts.fragment)


def place_of(url: str) -> str:
    """A URL as it may be shown: without who logs in by it, and without a query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
