"""Change a record by a pure function, again and again until nobody else was faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from loquent.domain.errors import NotFound, Stale
from loquent.domain.evolve import evolve
from loquent.ports.store import Add, Bump, Change, Remove, Replace

R = TypeVar("R")

TRIES = 20  # each try that fails means that another's write went through, so this is never the same two for ever


class Records(Protocol):
    """The two verbs that are needed: of a Store, or of a Scoped one."""

    async def get(self, kind: type[R], *ids: str) -> list[R]:
        """See Store."""
        ...

    async def write(self, *changes: Change) -> None:
        """See Store."""


async def amend(
    store: Records,
    kind: type[R],
    id: str,
    change: Callable[[R], R],
    *more: Change | Callable[[R, R], Iterable[Change]],
) -> R:
    """Read, ``change``, write it back together with ``more``; the record as it then stands.

    ``change`` is pure and may run several times; what it raises goes through. Where it gives the same object back,
    nothing at all is written. ``more`` are changes of other records, or functions of (old, new) that make them.
    Raises NotFound where there is no such record, Stale where it keeps changing (or one of ``more`` is stale),
    and what ``write`` raises.
    """
    for _ in range(TRIES):
        found = await store.get(kind, id)
        if not found:
            raise NotFound(f"there is no {kind.__name__.lower()} {id}")
        old = found[0]
        new = change(old)
        if new is old:
            return old
        beside = [each for one in more for each in (_made(one, old, new))]
        try:
            await store.write(Replace(old, new), *beside)
        except Stale:
            continue
        return _next(new, old)
    raise Stale(f"{kind.__name__.lower()} {id} keeps changing")


def _made(one: Change | Callable[[Any, Any], Iterable[Change]], old: Any, new: Any) -> Iterable[Change]:
    return (one,) if isinstance(one, Add | Replace | Remove | Bump) else one(old, new)


def _next(new: R, old: Any) -> R:
    """The new record with the version that the store gave it."""
    return evolve(new, version=old.version + 1)
