"""A caller's JSON schema, checked and made plain before native code reads it.

llama.cpp hands a schema to llguidance, which, where it cannot follow one, says nothing and lets the model write what it
likes; and a schema of a hundred thousand values would hold up every other answer. So only what is known to work goes
through, within bounds, and the rest is refused by name.
Source: https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from loquent.domain.errors import Invalid

DEPTH, PARTS, VALUES, LETTERS, COUNT = 24, 1_000, 1_000, 65_536, 4_096
"""Bounds: nesting, subschemas, enum values, characters in all, and what a length or a number of items may ask for."""
PATTERN = 512  # characters of a regular expression

TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
FORMATS = frozenset(("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
REMARKS = frozenset(
    ("title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly")
)
"""Keywords that bind nothing; they are left out. OpenAI's ``strict`` and ``name`` stand outside the schema."""

MANNER = {"whitespace_flexible": False, "coerce_one_of": True, "item_separator": ", ", "key_separator": ": "}
"""How the JSON is to look: on one line. With free white space a small model is soon lost in blank lines."""


def grammar(response_format: Mapping[str, Any]) -> str | None:
    """The grammar that makes the model keep to the form; None for plain text. Raises Invalid."""
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema: Any = {"type": "object"}
    elif kind == "json_schema":
        given = response_format.get("json_schema")
        schema = given.get("schema") if isinstance(given, Mapping) else None
        if not isinstance(schema, Mapping):
            raise _refused("json_schema.schema must be an object")
    else:
        raise _refused("type must be text, json_object or json_schema")
    plain = {"x-guidance": MANNER, **_Reading().root(schema)}
    return f"%llguidance {{}}\nstart: %json {json.dumps(plain)}"


def _refused(why: str, where: str = "") -> Invalid:
    return Invalid(f"response_format: {why}{f' (at {where[:120]})' if where else ''}", field="response_format")


class _Reading:
    """One schema on its way through."""

    def __init__(self) -> None:
        self._parts = self._values = self._letters = 0
        self._names: set[str] = set()
        self._objects: list[dict[str, Any]] = []  # that name their properties, and do not say that there are no more
        self._mixes = False  # schemas that hold together, so that closing one of them may shut out another

    def root(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        places = [key for key in ("$defs", "definitions") if key in schema]
        for place in places:
            if not isinstance(schema[place], Mapping):
                raise _refused(f"{place} must be an object")
            self._names |= {f"#/{place}/{name}" for name in schema[place]}
        self._no_circles(schema, places)
        plain = self.schema({key: value for key, value in schema.items() if key not in places}, "#", 0)
        if not isinstance(plain, dict):  # true is for parts, not for the whole
            raise _refused("the schema must be an object")
        for place in places:
            plain[place] = self._each(schema[place], f"#/{place}", 1)
        for each in () if self._mixes else self._objects:
            each["additionalProperties"] = False  # nobody asks for more; a small model would add without end
        return plain

    def schema(self, schema: Any, where: str, depth: int) -> dict[str, Any] | bool:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise _refused("a schema must be an object", where)
        self._parts += 1
        if depth > DEPTH or self._parts > PARTS:
            raise _refused(f"the schema is too large: at most {PARTS} parts, nested {DEPTH} deep", where)
        plain: dict[str, Any] = {}
        for key, value in schema.items():
            if key in REMARKS or (key == "uniqueItems" and value is False):
                continue
            if key not in KEYWORDS:
                raise _refused(f"the keyword {str(key)[:40]!r} is not supported here", where)
            plain[key] = KEYWORDS[key](self, value, f"{where}/{key}", depth)
        self._can_be(plain, where)
        self._mixes |= "allOf" in plain or (len(plain) > 1 and bool({"$ref", "anyOf", "oneOf"} & plain.keys()))
        may_close = "properties" in plain and "additionalProperties" not in plain
        if may_close and plain["properties"].keys() >= set(plain.get("required", ())):
            self._objects.append(plain)
        return plain

    def inner(self, value: Any, where: str, depth: int) -> dict[str, Any] | bool:
        return self.schema(value, where, depth + 1)

    def named(self, value: Any, where: str, depth: int) -> dict[str, Any]:
        return self._each(value, where, depth + 1)

    def several(self, value: Any, where: str, depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _refused("a list of schemas is wanted", where)
        return [self.schema(each, f"{where}/{place}", depth + 1) for place, each in enumerate(value)]

    def types(self, value: Any, where: str, depth: int) -> Any:
        kinds = value if isinstance(value, list) else [value]
        if not kinds or not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
            raise _refused(f"a type is one of {', '.join(sorted(TYPES))}", where)
        return value

    def reference(self, value: Any, where: str, depth: int) -> str:
        if value != "#" and value not in self._names:
            raise _refused("$ref must name an entry of $defs, or be '#'", where)
        return str(value)

    def enum(self, value: Any, where: str, depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _refused("an enum is a list of at least one value", where)
        self._values += len(value)
        if self._values > VALUES:
            raise _refused(f"there are over {VALUES} enum values", where)
        return [self.constant(each, where, depth) for each in value]

    def constant(self, value: Any, where: str, depth: int) -> Any:
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False)
            text.encode()  # no lone surrogates
        except (ValueError, RecursionError) as fault:
            raise _refused("a value is not JSON", where) from fault
        self._spend(text, where)
        return value

    def strings(self, value: Any, where: str, depth: int) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise _refused("a list of strings is wanted", where)
        for each in value:
            self._spend(each, where)
        return value

    def count(self, value: Any, where: str, depth: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT:
            raise _refused(f"a whole number from 0 to {COUNT} is wanted", where)
        return value

    def number(self, value: Any, where: str, depth: int) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 2**53:
            raise _refused("a number from -2^53 to 2^53 is wanted", where)
        return value

    def step(self, value: Any, where: str, depth: int) -> float:
        if not 1e-6 <= self.number(value, where, depth) <= 1e6:
            raise _refused("a number from 0.000001 to 1000000 is wanted", where)
        return float(value) if value != int(value) else int(value)

    def pattern(self, value: Any, where: str, depth: int) -> str:
        if not isinstance(value, str) or len(value) > PATTERN:
            raise _refused(f"a pattern is a string of at most {PATTERN} characters", where)
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as fault:
            raise _refused("the pattern is not a regular expression", where) from fault
        if re.search(r"\(\?[=!<]|\\[1-9]", value):
            raise _refused("a pattern takes no look-around and no back-references", where)
        self._spend(value, where)
        return value

    def form(self, value: Any, where: str, depth: int) -> str:
        if not isinstance(value, str) or value not in FORMATS:
            raise _refused(f"a format is one of {', '.join(sorted(FORMATS))}", where)
        return value

    def _each(self, value: Any, where: str, depth: int) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _refused("an object of schemas is wanted", where)
        for name in value:
            self.constant(name, where, depth)
        return {name: self.schema(each, f"{where}/{name}", depth) for name, each in value.items()}

    def _spend(self, text: str, where: str) -> None:
        self._letters += len(text)
        if self._letters > LETTERS:
            raise _refused(f"the schema has over {LETTERS} characters", where)

    def _can_be(self, plain: Mapping[str, Any], where: str) -> None:
        for least, most in (("minLength", "maxLength"), ("minItems", "maxItems")):
            if plain.get(least, 0) > plain.get(most, COUNT):
                raise _refused(f"{least} is more than {most}", where)
        for least, most in (("minimum", "maximum"), ("exclusiveMinimum", "maximum"), ("minimum", "exclusiveMaximum")):
            low, high = plain.get(least, -inf), plain.get(most, inf)
            if low > high or (low == high and "exclusive" in least + most):
                raise _refused(f"there is no number from {least} to {most}", where)

    def _no_circles(self, schema: Mapping[str, Any], places: list[str]) -> None:
        """A reference that leads only to references never comes to a value."""
        at = {f"#/{place}/{name}": each for place in places for name, each in schema[place].items()} | {"#": schema}
        for start in at:
            seen, here = {start}, at[start]
            while isinstance(here, Mapping) and isinstance(here.get("$ref"), str) and here["$ref"] in at:
                if here["$ref"] in seen:
                    raise _refused("a $ref leads round in a circle", start)
                seen.add(here["$ref"])
                here = at[here["$ref"]]


KEYWORDS: Mapping[str, Callable[[_Reading, Any, str, int], Any]] = {
    "type": _Reading.types,
    "$ref": _Reading.reference,
    "enum": _Reading.enum,
    "const": _Reading.constant,
    "properties": _Reading.named,
    "required": _Reading.strings,
    "additionalProperties": _Reading.inner,
    "items": _Reading.inner,
    "prefixItems": _Reading.several,
    "anyOf": _Reading.several,
    "oneOf": _Reading.several,
    "allOf": _Reading.several,
    "minItems": _Reading.count,
    "maxItems": _Reading.count,
    "minLength": _Reading.count,
    "maxLength": _Reading.count,
    "minimum": _Reading.number,
    "maximum": _Reading.number,
    "exclusiveMinimum": _Reading.number,
    "exclusiveMaximum": _Reading.number,
    "multipleOf": _Reading.step,
    "pattern": _Reading.pattern,
    "format": _Reading.form,
}
"""The keywords that bind, and what reads each."""
