"""A copy of what is ``fixed`` with other values in some of its fields, made in C: each request takes several."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec

R = TypeVar("R")


class Evolve(Protocol):
    """See evolve."""

    def __call__(self, record: R, /, **changes: Any) -> R:
        """See evolve."""
        ...


evolve: Evolve = msgspec.structs.replace  # type: ignore[assignment]  # what is fixed is a struct, which mypy is not told
"""A copy with other values in these fields. Raises TypeError for a field that is not there."""
