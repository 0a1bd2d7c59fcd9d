"""The one scoped way to reach records: what is not the asker's own is not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from loquent.domain.errors import NotFound
from loquent.domain.evolve import evolve
from loquent.domain.principals import Principal
from loquent.domain.records import RECORDS, SCOPES, Spec
from loquent.ports.store import COUNT_CAP, Add, Change, Page, Position, Replace, Store

R = TypeVar("R")


class Scoped:
    """A store as one principal sees it: the verbs of a Store without ``take``, which is for workers.

    Tenant and owner, as the type's declared scope wants them, are filled in and override what a caller passes. An
    order or a key that does not begin with them is refused with TypeError, as is a type of the whole system: a
    fault of the program, not of the asker. Another's record is absent to a read and NotFound to a change.
    """

    def __init__(self, store: Store, who: Principal) -> None:
        self._store = store
        self.who = who

    async def get(self, kind: type[R], *ids: str) -> list[R]:
        """See Store."""
        bounds = self._bounds(kind)
        return [record for record in await self._store.get(kind, *ids) if _is_within(record, bounds)]

    async def find(self, kind: type[R], key: str, at: Mapping[str, Any]) -> R | None:
        """See Store; tenant and owner may be left out of ``at``."""
        bounds = self._bounds(kind)
        spec = RECORDS[kind]
        _check_begins(spec, key, spec.unique.get(key), bounds)
        return await self._store.find(kind, key, {**at, **bounds})

    async def page(
        self,
        kind: type[R],
        order: str,
        at: Mapping[str, Any] | None = None,
        *,
        limit: int,
        after: Position | None = None,
        back: bool = False,
        until: Any = None,
    ) -> Page[R]:
        """See Store; tenant and owner may be left out of ``at``."""
        return await self._store.page(
            kind, order, self._at(kind, order, at), limit=limit, after=after, back=back, until=until
        )

    async def count(
        self, kind: type[R], order: str, at: Mapping[str, Any] | None = None, *, cap: int = COUNT_CAP
    ) -> int:
        """See Store; tenant and owner may be left out of ``at``."""
        return await self._store.count(kind, order, self._at(kind, order, at), cap=cap)

    async def write(self, *changes: Change) -> None:
        """See Store. Raises NotFound where a change is of another's record."""
        await self._store.write(*[await self._own(change) for change in changes])

    async def _own(self, change: Change) -> Change:
        record = change.old if isinstance(change, Replace) else change.record
        bounds = self._bounds(type(record))
        if isinstance(change, Add):
            return Add(_bound(record, bounds))
        if not _is_within(record, bounds):
            raise _not_found(record)
        if isinstance(change, Replace):
            return Replace(record, _bound(change.new, bounds))
        # a counted record is bumped and removed by its id alone, so what it says of its owner proves nothing: look
        there = await self._store.get(type(record), record.id) if RECORDS[type(record)].counters else []
        if not all(_is_within(each, bounds) for each in there):
            raise _not_found(record)
        return change

    def _bounds(self, kind: type[Any]) -> dict[str, str]:
        names = SCOPES[RECORDS[kind].scope]
        if not names:
            raise TypeError(f"{RECORDS[kind].table} belong to the whole system: no principal reaches them")
        return {name: getattr(self.who, name) for name in names}

    def _at(self, kind: type[Any], order: str, at: Mapping[str, Any] | None) -> dict[str, Any]:
        bounds = self._bounds(kind)
        spec = RECORDS[kind]
        _check_begins(spec, order, spec.orders[order].within if order in spec.orders else None, bounds)
        return {**(at or {}), **bounds}


def _is_within(record: Any, bounds: Mapping[str, str]) -> bool:
    return all(getattr(record, name) == value for name, value in bounds.items())


def _bound(record: Any, bounds: Mapping[str, str]) -> Any:
    return record if _is_within(record, bounds) else evolve(record, **bounds)


def _check_begins(spec: Spec, name: str, names: tuple[str, ...] | None, bounds: Mapping[str, str]) -> None:
    if names is None or names[: len(bounds)] != tuple(bounds):
        raise TypeError(f"{spec.table}: {name!r} is not within {', '.join(bounds)}: not for a request's path")


def _not_found(record: Any) -> NotFound:
    return NotFound(f"there is no {type(record).__name__.lower()} {record.id}")
