"""Records as rows of plain values, and the checks that every store makes alike before it does anything."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec

from loquent.domain.errors import Invalid
from loquent.domain.fixed import fixed, values
from loquent.domain.records import RECORDS, Order
from loquent.ports.store import MOST_CHANGES, Add, Bump, Change, Position, Remove, Replace

R = TypeVar("R")
Row = list[Any]

KEY_BYTES = 500  # of a text in an id, a key or an order: DynamoDB's sort keys have 1,024, PostgreSQL's index rows 2,700

encode = msgspec.json.Encoder(enc_hook=dict).encode
decode = msgspec.json.decode


class Json:
    """Marks a field that is stored as JSON text."""


def shape(hint: Any) -> tuple[type[Any], bool]:
    """What a field holds (str, int, float, bool or Json), and whether it may be None."""
    if get_origin(hint) in (Union, UnionType):
        rest = [each for each in get_args(hint) if each is not type(None)]
        return shape(rest[0])[0], len(rest) < len(get_args(hint))
    hint = getattr(hint, "__supertype__", hint)
    if hint in (str, int, float, bool):
        return hint, False
    if isinstance(get_origin(hint) or hint, type) and issubclass(get_origin(hint) or hint, Mapping):
        return Json, False
    raise TypeError(f"a store cannot keep {hint}")


class Rows(Generic[R]):
    """How records of one type become rows, and rows records."""

    def __init__(self, kind: type[R]) -> None:
        if kind not in RECORDS:
            raise TypeError(f"{kind.__name__} is not declared in domain/records.py")
        self.kind = kind
        self.spec = spec = RECORDS[kind]
        self.names = spec.names
        self.shapes = {name: shape(spec.types[name]) for name in spec.names}
        self.place = {name: place for place, name in enumerate(spec.names)}
        keyed = {"id", *(name for key in spec.unique.values() for name in key)}
        keyed |= {name for order in spec.orders.values() for name in (*order.within, order.by)}
        self.counters = frozenset(spec.counters)
        self.version_at = self.place.get("version")
        self.id_at = self.place["id"]
        self._texts_at = [(at, KEY_BYTES if self.names[at] in keyed else None) for at in self._places(str)]
        self._json_at, self._bool_at = self._places(Json), self._places(bool)
        # some places are asked for twice, so that a reader gives a tuple for any number of fields
        self._keys_of = itemgetter(*[at for at, most in self._texts_at if most], self.id_at)
        self._texts_of = itemgetter(*[at for at, most in self._texts_at if not most], self.id_at, self.id_at)
        wholes = self._places(int)
        self._wholes_of = itemgetter(*wholes, wholes[0]) if wholes else lambda row: ()

    def _places(self, base: type[Any]) -> list[int]:
        return [self.place[name] for name in self.names if self.shapes[name][0] is base]

    def row(self, record: R, version: int | None = None) -> Row:
        """The record's values, in the order of its fields; Invalid where one of them cannot be kept."""
        row = list(values(record))
        if version is not None and self.version_at is not None:
            row[self.version_at] = version
        # the hot path looks at all texts at once, and at each of them only where something is unusual
        keys = "".join(filter(None, self._keys_of(row)))
        texts = "".join(filter(None, self._texts_of(row)))
        if len(keys) > KEY_BYTES or not (texts.isascii() and keys.isascii()) or "\0" in texts or "\0" in keys:
            for at, most in self._texts_at:
                if row[at] is not None:
                    check_text(row[at], self.names[at], most)
        check_whole(filter(None, self._wholes_of(row)))
        for at in self._json_at:
            if row[at] is not None:
                row[at] = json_text(row[at], self.names[at])
        return row

    def record(self, row: Sequence[Any]) -> R:
        """The record that a row was made of."""
        if self._json_at or self._bool_at:
            row = list(row)
            for at in self._json_at:
                if row[at] is not None:
                    row[at] = decode(row[at])
            for at in self._bool_at:
                if row[at] is not None:
                    row[at] = bool(row[at])
        return self.kind(*row)

    def reader(self, names: Sequence[str]) -> Callable[[Sequence[Any]], tuple[Any, ...] | None]:
        """Reads these fields from a row as a key; None where one of them is None."""
        places = [self.place[name] for name in names]

        def read(row: Sequence[Any]) -> tuple[Any, ...] | None:
            key = tuple(row[place] for place in places)
            return None if None in key else key

        return read

    def unique(self, key: str, at: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of a declared unique key, as its fields stand."""
        if key not in self.spec.unique:
            raise TypeError(f"{self.spec.table} have no unique key {key!r}")
        return self._at(self.spec.unique[key], at, key)

    def within(self, order: str, at: Mapping[str, Any]) -> tuple[Order, tuple[Any, ...]]:
        """A declared order, and the values that it is asked for."""
        declared = self.spec.orders.get(order)
        if declared is None:
            raise TypeError(f"{self.spec.table} have no order {order!r}")
        return declared, self._at(declared.within, at, order)

    def _at(self, names: tuple[str, ...], at: Mapping[str, Any], what: str) -> tuple[Any, ...]:
        if at.keys() != set(names):
            raise TypeError(f"{self.spec.table}: {what!r} wants {names}, not {tuple(at)}")
        return check_values(*(at[name] for name in names))


_rows: dict[type[Any], Rows[Any]] = {}


def rows_of(kind: type[R]) -> Rows[R]:
    """The rows of a declared record type; TypeError for another."""
    made = _rows.get(kind)
    if made is None:
        made = _rows[kind] = Rows(kind)
    return made


@fixed
class Step:
    """One change, checked and made of rows: before is None for an Add, after is None for a Remove."""

    rows: Rows[Any]
    id: str
    before: Row | None
    after: Row | None
    by: Mapping[str, int] | None  # of a Bump; `after` is then what it is made of where absent


def steps(changes: Sequence[Change]) -> list[Step]:
    """The changes as a store carries them out; Invalid or TypeError before anything is done."""
    if len(changes) > MOST_CHANGES:
        raise Invalid(f"at most {MOST_CHANGES} changes in one write")
    made = [_STEPS[type(change)](change) for change in changes]
    if len(made) > 1 and len({(step.rows, step.id) for step in made}) < len(made):
        raise Invalid("one write changes a record once")
    return made


def _added(change: Add) -> Step:
    rows = rows_of(type(change.record))
    return Step(rows, change.record.id, None, rows.row(change.record, 1), None)


def _bumped(change: Bump) -> Step:
    record, by = change.record, change.by
    rows = rows_of(type(record))
    if not by or not by.keys() <= rows.counters:
        raise TypeError(f"{rows.spec.table}: not counters: {sorted(by.keys() - rows.counters)}")
    check_whole(by.values())
    return Step(rows, record.id, None, rows.row(record), by)


def _removed(change: Remove) -> Step:
    rows = rows_of(type(change.record))
    return Step(rows, change.record.id, rows.row(change.record), None, None)


def _replaced(change: Replace) -> Step:
    old, new = change.old, change.new
    rows = rows_of(type(old))
    at = rows.version_at
    if at is None or type(new) is not rows.kind or new.id != old.id:
        raise TypeError(f"{rows.spec.table}: only a versioned record is replaced, by one of its own type and id")
    before = rows.row(old)
    return Step(rows, old.id, before, rows.row(new, before[at] + 1), None)


_STEPS: Mapping[type[Any], Callable[[Any], Step]] = {Add: _added, Bump: _bumped, Remove: _removed, Replace: _replaced}


def put_and_added(rows: Rows[R], put: Mapping[str, Any], add: Mapping[str, int]) -> dict[str, Any]:
    """What a take sets, as it is stored; TypeError where a field cannot be set so."""
    kept = {name for key in rows.spec.unique.values() for name in key} | {"id", "version"}
    if rows.version_at is None or (put.keys() | add.keys()) & kept or put.keys() & add.keys():
        raise TypeError(f"{rows.spec.table}: a take cannot set {sorted((put.keys() | add.keys()) & kept)}")
    if any(rows.shapes[name][0] is not int for name in add):
        raise TypeError(f"{rows.spec.table}: only whole numbers are added to")
    check_whole(add.values())
    stored = {name: json_text(it, name) if rows.shapes[name][0] is Json and it else it for name, it in put.items()}
    check_values(*stored.values())
    return stored


def check_values(*values: Any) -> tuple[Any, ...]:
    """The values, where each of them could be stored; Invalid otherwise, TypeError where it is no plain value."""
    for value in values:
        if type(value) is str:
            if not value.isascii() or "\0" in value:
                check_text(value, "")
        elif type(value) is int:
            check_whole((value,))
        elif value is not None and not isinstance(value, bool | float):
            raise TypeError(f"a store cannot look for a {type(value).__name__}")
    return values


def check_position(after: Position | None) -> Position | None:
    """The position, where it could be one; Invalid otherwise."""
    if after is not None:
        check_values(*after)
    return after


def check_whole(numbers: Iterable[int]) -> None:
    """Raise Invalid where one of them is not within 64 bits."""
    try:
        array("q", numbers)
    except OverflowError:
        raise Invalid("a whole number has at most 63 bits") from None


def check_text(text: str, field: str, most: int | None = None) -> None:
    """Raise Invalid for NUL, for what UTF-8 cannot write, and for more than ``most`` bytes."""
    if "\0" in text:
        raise Invalid("text cannot hold the character NUL", field=field)
    try:
        written = text.encode()
    except UnicodeEncodeError:
        raise Invalid("text cannot hold half of a surrogate pair", field=field) from None
    if most is not None and len(written) > most:
        raise Invalid(f"text that is looked for has at most {most} bytes", field=field)


def json_text(value: Any, field: str) -> str:
    """A value as JSON; Invalid where its texts cannot be kept."""
    try:
        text = encode(value).decode()
    except UnicodeEncodeError:
        raise Invalid("text cannot hold half of a surrogate pair", field=field) from None
    if "\\u0000" in text and _holds_nul(decode(text)):
        raise Invalid("text cannot hold the character NUL", field=field)
    return text


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(each) for each in (*value, *value.values()))
    return isinstance(value, list) and any(_holds_nul(each) for each in value)
