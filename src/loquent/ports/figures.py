"""Figures: what a part can tell of its insides to whoever watches it; a part that tells nothing is as good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Watched(Protocol):
    """A store, a queue, a cache or an engine that knows how full it is."""

    def figures(self) -> Mapping[str, float]:
        """Numbers by name: how many wait, how many connections. From memory, at once; asked while nobody can wait."""
        ...


def figures_of(part: object) -> Mapping[str, float]:
    """What that part tells; nothing where it is none that does."""
    return part.figures() if isinstance(part, Watched) else {}
