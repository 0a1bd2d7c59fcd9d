"""A library that is imported when something of it is first asked for: by the processes that run its tests alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Later:
    """In the library's place: ``anthropic = Later("anthropic")``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what collects tests asks each thing in a module whether it is one
            raise AttributeError(name)
        return getattr(import_module(self._name), name)
