"""The SQL tables and indexes, built from the declared records: what Alembic's migrations must lead to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import NODEFAULT
from msgspec.structs import fields
from sqlalchemy import BigInteger, Boolean, Column, Double, Index, MetaData, Table, Text, and_, false, true
from sqlalchemy.sql.elements import ColumnElement

from loquent.domain.records import RECORDS, Spec
from loquent.stores.rows import Json, rows_of

TEXT = Text().with_variant(Text(collation="C"), "postgresql")  # sorted by code point, as SQLite and Python do
COLUMNS: dict[type[Any], Any] = {str: TEXT, Json: Text(), int: BigInteger(), float: Double(), bool: Boolean()}


def _table(metadata: MetaData, spec: Spec) -> Table:
    shapes = rows_of(spec.type).shapes
    table = Table(spec.table, metadata, *(_column(name, *shapes[name], spec) for name in spec.names))
    for name, order in spec.orders.items():
        if order.within or order.by != "id":  # the primary key is that order already
            listed = tuple(dict.fromkeys((*order.within, order.by, "id")))
            _index(table, name, listed, [order.by] if shapes[order.by][1] else [])
    for name, key in spec.unique.items():
        _index(table, name, key, [field for field in key if shapes[field][1]], unique=True)
    return table


def _column(name: str, base: type[Any], nullable: bool, spec: Spec) -> Column[Any]:
    default = next(field.default for field in fields(spec.type) if field.name == name)
    written = None if nullable or default is NODEFAULT else _written(default)
    return Column(name, COLUMNS[base], primary_key=name == "id", nullable=nullable, server_default=written)


def _written(default: Any) -> ColumnElement[Any] | str:
    """A default in SQL, so that a new column can be added to a table that has rows."""
    if isinstance(default, bool):
        return true() if default else false()
    return str(default)


def _index(table: Table, name: str, names: Iterable[str], sparse: list[str], *, unique: bool = False) -> None:
    where = and_(*(table.c[field].is_not(None) for field in sparse)) if sparse else None
    columns = (table.c[field] for field in names)
    Index(f"{table.name}_{name}", *columns, unique=unique, sqlite_where=where, postgresql_where=where)


METADATA = MetaData()
TABLES = {spec.type: _table(METADATA, spec) for spec in RECORDS.values()}
