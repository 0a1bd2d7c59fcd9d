"""Backends: how a URL's scheme names the class that speaks it, loaded only when used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from loquent.domain.errors import Misconfigured
from loquent.domain.urls import without_password
from loquent.ports.extras import install


def named(url: str, schemes: Mapping[str, str], setting: str, *, extra: str = "") -> Any:
    """The class that the URL's scheme stands for in a table of ``scheme: "module:Class"``.

    ``sqlite+aiosqlite:`` and the like mean the scheme before the plus. Raises Misconfigured naming the setting where
    the scheme is unknown, and the extra to install (by default called as the scheme) where its library is missing.
    """
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme not in schemes or ":" not in url:
        takes = ", ".join(f"{each}:" for each in schemes)
        raise Misconfigured(f"{setting} holds {without_password(url)!r}; it takes a URL that begins with {takes}")
    module, _, name = schemes[scheme].partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"{setting} holds {without_password(url)!r}, which needs {error.name}: {install(extra or scheme)}"
        ) from error
