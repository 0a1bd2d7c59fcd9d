"""Quick reading: a body of the usual shape becomes a struct, made from the same model, in one pass and without a copy.

What is unusual in any way is left to the model itself, which alone says what is wrong: so a struct may know less than
its model, and never takes what the model would not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from inspect import isfunction
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

M = TypeVar("M", bound=BaseModel)
LIMITS = ("ge", "le", "min_length", "max_length")  # both libraries call them so
MOST = 2**63 - 1  # a whole number without bounds has these
COLON = b'":'  # with the quotes before it: only a key has these
PLAIN = (str, bool, float)
_readers: dict[type[BaseModel], Callable[[bytes], Any]] = {}
_known = msgspec.json.Decoder().decode
_written = msgspec.json.Encoder().encode


class Beyond(TypeError):
    """A struct cannot say this as the model does."""


def quickly(model: type[M]) -> type[M]:
    """Have bodies of this model read quickly. Its handlers use its fields and own methods, nothing of pydantic's."""
    _readers[model] = msgspec.json.Decoder(_struct(model)).decode
    return model


def usual(model: type[M], body: bytes) -> M | None:
    """The body, where it is of the usual shape; None: have the model read it."""
    read = _readers.get(model)
    if read is None or b"\\u" in body:  # escapes may hide NUL, half characters, and quotes from what is counted below
        return None
    try:
        made: M = read(body)
        # A key that stands twice is seen by the number of keys. One ends in quotes and a colon, and nothing else does:
        # within a text these are behind a backslash, and stand there in both. The struct is written without what is
        # left out, so where a field is there that might have been, the keys are counted anew.
        keys = body.translate(None, b" \t\r\n").count(COLON)
        is_once = _written(made).count(COLON) == keys or _written(_known(body)).count(COLON) == keys
        return made if is_once else None
    except (ValueError, RecursionError):
        return None


def _struct(model: type[BaseModel]) -> Any:
    """The struct of a model. Raises Beyond where it cannot be had."""
    checks = model.__pydantic_decorators__
    if checks.root_validators or any(each.info.mode != "after" for each in checks.model_validators.values()):
        raise Beyond(model.__name__)
    checked = {field for each in checks.field_validators.values() for field in each.info.fields}
    if "*" in checked or any(each.alias or each.validation_alias for each in model.model_fields.values()):
        raise Beyond(model.__name__)
    fields = [_field(name, field, is_checked=name in checked) for name, field in model.model_fields.items()]
    own = {name: it for kind in reversed(model.__mro__) if _is_ours(kind) for name, it in vars(kind).items()}
    methods: dict[str, Any] = {name: it for name, it in own.items() if isfunction(it)}
    if after := [each.func for each in checks.model_validators.values()]:
        methods["__post_init__"] = lambda self: [check(self) for check in after]
    return msgspec.defstruct(
        model.__name__, fields, namespace=methods, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    )


def _is_ours(kind: type[Any]) -> bool:
    return issubclass(kind, BaseModel) and kind is not BaseModel


def _field(name: str, field: FieldInfo, *, is_checked: bool) -> tuple[Any, ...]:
    """As msgspec wants it. What a struct cannot say may only be left out, or be null where that is what is left out."""
    try:
        if is_checked:
            raise Beyond(name)
        hint = _hint(field.annotation, field.metadata)
    except Beyond:
        if field.is_required() or field.default is not None:
            raise
        hint = None
    if field.is_required():
        return name, hint
    if isinstance(field.default, list | dict | set) or field.default_factory is not None:
        raise Beyond(name)
    return name, hint, field.default


def _hint(hint: Any, more: list[Any] | tuple[Any, ...] = ()) -> Any:
    """The type as msgspec has it; of several, those that it can have."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        told = [each for one in inner[1:] for each in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return _hint(inner[0], [*told, *more])
    if origin in (Union, UnionType):
        if more:
            raise Beyond(str(hint))
        return _union(inner)
    limits = {name: getattr(each, name) for each in more for name in LIMITS if hasattr(each, name)}
    if len(limits) != len(more):
        raise Beyond(str(hint))
    if origin is Literal and not more and all(type(each) is str for each in inner):
        return hint
    if origin is list:
        return Annotated[list[_hint(*inner)], msgspec.Meta(**limits)]  # type: ignore[misc]
    if hint is int:
        return Annotated[
            int, msgspec.Meta(ge=max(-MOST, limits.get("ge", -MOST)), le=min(MOST, limits.get("le", MOST)))
        ]
    if hint in PLAIN:
        return Annotated[hint, msgspec.Meta(**limits)]
    if hint is None or hint is type(None):
        return None
    if isinstance(hint, type) and issubclass(hint, BaseModel) and not more:
        return _struct(hint)
    raise Beyond(str(hint))


def _union(hints: tuple[Any, ...]) -> Any:
    """One of several, as far as msgspec can tell them apart."""
    made = []
    for each in hints:
        with suppress(Beyond):
            made.append(_hint(each))
    try:
        whole: Any = Union.__getitem__(tuple(made))
        msgspec.json.Decoder(whole)
    except TypeError as beyond:
        raise Beyond(str(hints)) from beyond
    return whole
