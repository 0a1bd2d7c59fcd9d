"""Dataclasses that nobody changes once they are made: the type checker sees to it, so the machine need not.

``dataclass(frozen=True)`` makes an object at four times the cost, for each field a call; a request makes ten of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def fixed(kind: type[T]) -> type[T]:
    """A dataclass with slots and a hash, frozen to whoever checks types."""
    return dataclass(slots=True, unsafe_hash=True)(kind)
