"""Records as DynamoDB items: their keys, their places in the generic indexes, their long texts."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loquent.domain.records import RECORDS, Order
from loquent.stores.rows import Json, Row, Rows

Item = dict[str, dict[str, Any]]  # as the wire has it: {"name": {"S": "text"}}

INDEXES = max(len(spec.orders) for spec in RECORDS.values())
PLAIN = 2_000  # bytes of long texts that stay readable fields
INLINE = 100_000  # bytes, compressed, that stay within the item: twenty of them fit a transaction of 4 MB
PART = 350_000  # bytes of one part: an item has at most 400 KB
LOWEST, HIGHEST = "\0", "\U0010ffff\U0010ffff"


def layout() -> str:
    """What the items' keys and indexes were made by: another declaration gives another."""
    declared = [(spec.table, sorted(spec.unique.items()), list(spec.orders.items())) for spec in RECORDS.values()]
    return hashlib.sha256(repr(declared).encode()).hexdigest()[:16]


def record_key(rows: Rows[Any], id: str) -> Item:
    """The key of a record's item."""
    return {"pk": {"S": f"{rows.spec.table}#{id}"}}


def unique_key(rows: Rows[Any], name: str, values: Sequence[Any]) -> Item:
    """The key of the item that stands for a unique key; hashed, so that it fits whatever it is made of."""
    return {"pk": {"S": f"{rows.spec.table}!{name}!{_digest(values)}"}}


def part_key(token: str, number: int) -> Item:
    """The key of one part of a long text; nobody guesses the token."""
    return {"pk": {"S": f"part!{token}!{number}"}}


def partition(rows: Rows[Any], order: str, values: Sequence[Any]) -> str:
    """The partition of a generic index that holds this order there."""
    return f"{rows.spec.table}/{order}/{_digest(values)}"


def sort_key(order: Order, value: Any, id: str) -> str:
    """Text that sorts as (value, id) do."""
    return id if order.by == "id" else f"{_sortable(value)}\0{id}"


def sort_bound(order: Order, value: Any) -> str:
    """Text behind every sort key of this value and before those of greater ones."""
    return f"{value if order.by == 'id' else _sortable(value)}\1"


def _sortable(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        (bits,) = struct.unpack(">Q", struct.pack(">d", value))
        return f"{bits ^ (2**64 - 1 if bits >> 63 else 2**63):016x}"
    return f"{value + 2**63:016x}"


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(list(values))).hexdigest()


def wire(value: Any) -> dict[str, Any]:
    """One value as the wire has it."""
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, bytes):
        return {"B": value}
    return {"N": repr(value)}


def indexed(rows: Rows[Any], row: Row) -> Item:
    """The record's places in the indexes order0, order1, …: one for each order that lists it."""
    places: Item = {}
    for at, (name, order) in enumerate(rows.spec.orders.items()):
        values = rows.reader((*order.within, order.by))(row)
        if values is not None:
            places[f"order{at}p"] = {"S": partition(rows, name, values[:-1])}
            places[f"order{at}s"] = {"S": sort_key(order, values[-1], row[rows.id_at])}
    return places


def is_listed(rows: Rows[Any], order: str, row: Row, item: Item) -> bool:
    """Whether the index's word of a record still holds: an index lags, the record does not."""
    at = list(rows.spec.orders).index(order)
    now = indexed(rows, row)
    return all(now.get(name) == item[name] for name in (f"order{at}p", f"order{at}s"))


def fields(rows: Rows[Any], row: Row) -> Item:
    """The fields of a record that are there, long texts aside."""
    long = rows.spec.long
    named = zip(rows.names, row, strict=True)
    return {name: wire(value) for name, value in named if value is not None and name not in long}


def long_texts(rows: Rows[Any], row: Row) -> Mapping[str, str]:
    """The long texts of a record that are there."""
    values = {name: row[rows.place[name]] for name in rows.spec.long}
    return {name: value for name, value in values.items() if value is not None}


def squeezed(texts: Mapping[str, str]) -> bytes:
    """Long texts, compressed together."""
    return zlib.compress(msgspec.json.encode(texts), 3)


def unsqueezed(data: bytes) -> Mapping[str, str]:
    """The long texts again."""
    texts: Mapping[str, str] = msgspec.json.decode(zlib.decompress(data))
    return texts


def row_of(rows: Rows[Any], item: Item, texts: Mapping[str, str]) -> Row:
    """The row that an item and its long texts hold."""
    read = {str: str, Json: str, int: int, float: float, bool: bool}
    row: Row = []
    for name in rows.names:
        value = texts[name] if name in texts else next(iter(item[name].values())) if name in item else None
        row.append(value if value is None else read[rows.shapes[name][0]](value))
    return row


def part_keys(head: Item) -> list[Item]:
    """Where the parts of its long texts lie."""
    return [part_key(head["parts_of"]["S"], at) for at in range(int(head["parts"]["N"]))]
