"""The SQL statements of the six verbs, each built by SQLAlchemy and compiled once for a dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Dialect, bindparam, delete, func, literal_column, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import Executable, insert
from sqlalchemy.sql.elements import ColumnElement

from loquent.domain.records import RECORDS, Order
from loquent.stores.rows import Rows
from loquent.stores.sql_tables import TABLES

UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
ONE: ColumnElement[int] = literal_column("1")


class Statement(NamedTuple):
    """SQL as the driver takes it, the names of its values in order, and those that are always the same."""

    sql: str
    names: tuple[str, ...]
    fixed: Mapping[str, Any]

    def values(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The named values as the driver takes them."""
        return tuple([named[name] if name in named else self.fixed[name] for name in self.names])


class Statements:
    """The statements of one dialect, made when first asked for and then kept."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._kept: dict[Any, Statement] = {}

    def add(self, rows: Rows[Any], names: tuple[str, ...]) -> Statement:
        """Insert one record; values: the fields of these names, in the fields' order. The others are null."""

        def build() -> Executable:
            return insert(TABLES[rows.kind]).values({name: bindparam(name) for name in names})

        return self._once((rows, "add", names), build, names)

    def replace(self, rows: Rows[Any], changed: Sequence[int]) -> Statement:
        """Set the fields at these places; values: those, then the id and the version as read."""

        def build() -> Executable:
            table = TABLES[rows.kind]
            same = (table.c.id == bindparam("old_id"), table.c.version == bindparam("old_version"))
            return update(table).where(*same).values({name: bindparam(name) for name in names})

        names = tuple(rows.names[place] for place in changed)
        return self._once((rows, "replace", changed), build, (*names, "old_id", "old_version"))

    def remove(self, rows: Rows[Any]) -> Statement:
        """Delete one record; values: its id and, where it is versioned, its version."""

        def build() -> Executable:
            table = TABLES[rows.kind]
            same = [table.c.id == bindparam("old_id")]
            if rows.version_at is not None:
                same.append(table.c.version == bindparam("old_version"))
            return delete(table).where(*same)

        names = ("old_id",) if rows.version_at is None else ("old_id", "old_version")
        return self._once((rows, "remove"), build, names)

    def bump(self, rows: Rows[Any], counters: tuple[str, ...]) -> Statement:
        """Insert a record or raise its counters, given in the fields' order; values: the fields, then the amounts."""

        def build() -> Executable:
            table = TABLES[rows.kind]
            raised = {name: table.c[name] + bindparam(f"by_{name}") for name in counters}
            made: Executable = (
                UPSERT[self._dialect.name](table)
                .values({name: bindparam(name) for name in rows.names})
                .on_conflict_do_update(index_elements=["id"], set_=raised)
            )
            return made

        amounts = tuple(f"by_{name}" for name in counters)
        return self._once((rows, "bump", counters), build, (*rows.names, *amounts))

    def get(self, rows: Rows[Any], n: int) -> Statement:
        """Select by n ids."""

        def build() -> Executable:
            table = TABLES[rows.kind]
            if n == 1:
                return select(table).where(table.c.id == bindparam("id"))
            return select(table).where(table.c.id.in_([bindparam(f"id_{at}") for at in range(n)]))

        return self._once((rows, "get", n), build)

    def find(self, rows: Rows[Any], key: str) -> Statement:
        """Select by a unique key; values: its fields."""

        def build() -> Executable:
            table = TABLES[rows.kind]
            return select(table).where(*(table.c[name] == bindparam(name) for name in rows.spec.unique[key]))

        return self._once((rows, "find", key), build, rows.spec.unique[key])

    def page(self, rows: Rows[Any], order: str, *, upward: bool, after: bool, until: bool) -> Statement:
        """Select a page in one direction; values by name: within, until, after, after_id, limit."""

        def build() -> Executable:
            table, declared = TABLES[rows.kind], rows.spec.orders[order]
            where = self._listed(rows, declared, until=until)
            by = [table.c[name] for name in dict.fromkeys((declared.by, "id"))]
            if after:
                names = ("after", "after_id")[-len(by) :]
                here, there = (
                    tuple_(*by),
                    tuple_(*(bindparam(name, type_=each.type) for name, each in zip(names, by, strict=True))),
                )
                where.append(here > there if upward else here < there)
            sort = by if upward else [column.desc() for column in by]
            return select(table).where(*where).order_by(*sort).limit(bindparam("limit"))

        return self._once((rows, "page", order, upward, after, until), build)

    def count(self, rows: Rows[Any], order: str) -> Statement:
        """Count an order up to a cap; values by name: within, limit."""

        def build() -> Executable:
            some = select(ONE).select_from(TABLES[rows.kind])
            some = some.where(*self._listed(rows, rows.spec.orders[order], until=False)).limit(bindparam("limit"))
            return select(func.count()).select_from(some.subquery())

        return self._once((rows, "count", order), build)

    def take(self, rows: Rows[Any], order: str, put: tuple[str, ...], add: tuple[str, ...]) -> Statement:
        """Change the first records that are due and give them back; values by name: put_…, by_…, until, limit."""

        def build() -> Executable:
            table, declared = TABLES[rows.kind], rows.spec.orders[order]
            names = dict.fromkeys((declared.by, "id"))
            by = [table.c[name].desc() if declared.desc else table.c[name] for name in names]
            due = select(table.c.id).where(*self._listed(rows, declared, until=True)).order_by(*by)
            due = due.limit(bindparam("limit")).with_for_update(skip_locked=True)
            values: dict[str, Any] = {name: bindparam(f"put_{name}") for name in put}
            raised = {name: table.c[name] + bindparam(f"by_{name}") for name in add}
            moved = {**values, **raised, "version": table.c.version + ONE}
            return update(table).where(table.c.id.in_(due.scalar_subquery())).values(moved).returning(*table.c)

        return self._once((rows, "take", order, put, add), build)

    def _listed(self, rows: Rows[Any], order: Order, *, until: bool) -> list[ColumnElement[bool]]:
        """What an order holds: also said in the query, or the partial index is not used and None is not left out."""
        table = TABLES[rows.kind]
        where = [table.c[name] == bindparam(name) for name in order.within]
        if rows.shapes[order.by][1]:
            where.append(table.c[order.by].is_not(None))
        if until:
            where.append(table.c[order.by] <= bindparam("until"))
        return where

    def _once(self, key: Any, build: Callable[[], Executable], names: tuple[str, ...] | None = None) -> Statement:
        """The statement that was kept, or built now; ``names``: the order of values that callers rely on."""
        made = self._kept.get(key)
        if made is None:
            compiled: Any = build().compile(dialect=self._dialect)  # type: ignore[attr-defined]  # Executable is untyped here
            made = self._kept[key] = Statement(str(compiled), tuple(compiled.positiontup), compiled.params)
            if names is not None and made.names != names:
                raise TypeError(f"values of {made.sql!r} are not {names}")
        return made


KEYS = {
    (spec.table, columns): name for spec in RECORDS.values() for name, columns in {"id": ("id",), **spec.unique}.items()
}
"""The declared name of a unique key, by what a database says when it is taken: the table and its columns."""
