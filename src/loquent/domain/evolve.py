"""``dataclasses.replace``, at a tenth of its cost for what is ``fixed``: records are changed on the way of requests."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import msgspec

R = TypeVar("R")


def evolve(record: R, **changes: Any) -> R:
    """A copy with other values in these fields. Raises TypeError for a field that is not there."""
    if isinstance(record, msgspec.Struct):
        return msgspec.structs.replace(record, **changes)
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]  # then it is a dataclass
