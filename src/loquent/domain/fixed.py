"""What a request makes, as structs: ``fixed``, which nobody changes, and ``loose``, which is filled under way.

A request makes some twenty of these, one of them with forty fields. As frozen dataclasses they would cost a call for
each field, as plain ones still ten times what msgspec's structs do: those are made, read and copied in C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import msgspec

T = TypeVar("T")

values: Callable[[Any], tuple[Any, ...]] = msgspec.structs.astuple
"""All values of what is ``fixed``, in the order of its fields."""


@dataclass_transform(frozen_default=True)
def fixed(kind: type[T]) -> type[T]:
    """The class with a constructor by place and name, equality, a hash, and no way to change what is made of it."""
    return _struct(kind, frozen=True)


@dataclass_transform(field_specifiers=(msgspec.field,))
def loose(kind: type[T]) -> type[T]:
    """The same for what is filled while it is under way: it changes, and has no hash."""
    return _struct(kind)


def _struct(kind: type[T], **options: bool) -> type[T]:
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    bases: tuple[type[Any], ...] = kind.__bases__ if issubclass(kind, msgspec.Struct) else (msgspec.Struct,)
    struct: Any = type(msgspec.Struct)
    return struct(kind.__name__, bases, own, **options)  # type: ignore[no-any-return]
