"""The smallest JSON that a schema allows: what the echo engine says where it is asked to keep to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEEPEST = 32  # levels of a schema that an instance is made for
MOST_ITEMS = 8  # of its outermost arrays; arrays inside those get one, so that no schema makes a flood
MOST_CHARACTERS = 100

UNREADABLE = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
"""What ``instance`` raises at something that is no schema."""


def instance(schema: Any, depth: int = 0, most: int = MOST_ITEMS) -> Any:
    """The smallest value that a simple schema allows; references, patterns and large minima are not followed."""
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return {}
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return instance(options[0], depth + 1, most)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        parts = schema.get("properties", {})
        return {name: instance(parts.get(name, {}), depth + 1, most) for name in schema.get("required", [])}
    if kind == "array":
        return [instance(schema.get("items", {}), depth + 1, 1)] * min(int(schema.get("minItems", 0)), most)
    if kind == "string":
        return "x" * min(int(schema.get("minLength", 0)), MOST_CHARACTERS)
    return schema.get("minimum", SMALLEST[kind])


SMALLEST: Mapping[str, Any] = {"integer": 0, "number": 0, "boolean": False, "null": None}
