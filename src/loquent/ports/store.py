"""The store: six verbs over records that are declared once, in ``domain/records.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from loquent.domain.fixed import fixed

R = TypeVar("R")

MOST_CHANGES = 20
COUNT_CAP = 10_000


class Position(NamedTuple):
    """A place in an order: the value of its ``by`` field and the id. The record need not exist any more."""

    value: Any
    id: str


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Items in the order's own direction, and whether more lie beyond, in the direction that was read."""

    items: list[R]
    more: bool


@fixed
class Add:
    """A new record; its version becomes 1. Raises Taken where its id or a unique key is in use."""

    record: Any


@fixed
class Replace:
    """``new`` in place of ``old`` as it was read; the version goes up by one. Raises Stale where it is not so."""

    old: Any
    new: Any


@fixed
class Remove:
    """Take it away as it was read. Raises Stale where it has changed or is gone."""

    record: Any


@fixed
class Bump:
    """Add to counters of ``record``, made with its values first where absent."""

    record: Any
    by: Mapping[str, int]


Change = Add | Replace | Remove | Bump


class Store(Protocol):
    """Where records live.

    What always holds: a read sees every write that returned before it began (``page``, ``count`` and ``take`` may
    lag on stores with late indexes: newest records may be missing for a moment, nothing comes twice, nothing
    foreign comes at all). None in a unique key: not unique. None in an order's ``by``: not listed. NUL in any text,
    and text that UTF-8 cannot write, raise Invalid before anything is written. Every verb raises Unavailable where
    the backend is away or too slow; no other error of a backend comes through.
    """

    async def open(self) -> None:
        """Connect, and check that the schema is the one this program knows. Raises Misconfigured or Unavailable."""

    async def close(self) -> None:
        """Finish what is under way and let go of everything. May be called twice."""

    async def ready(self) -> None:
        """Answer quickly whether reads and writes work now; raises Unavailable where not."""

    async def get(self, kind: type[R], *ids: str) -> list[R]:
        """The records with these ids, in the order asked, absent ones left out. Reads one's own writes."""
        ...

    async def find(self, kind: type[R], key: str, at: Mapping[str, Any]) -> R | None:
        """The record with this declared unique key. Reads one's own writes."""
        ...

    async def page(
        self,
        kind: type[R],
        order: str,
        at: Mapping[str, Any],
        *,
        limit: int,
        after: Position | None = None,
        back: bool = False,
        until: Any = None,
    ) -> Page[R]:
        """Up to ``limit`` records of a declared order in which ``within`` equals ``at``.

        ``after``: those behind that position; ``back``: those just before it (without ``after``: the last ones).
        ``until``: only records whose ``by`` is at most this. Items come in the order's own direction, always.
        """
        ...

    async def count(self, kind: type[R], order: str, at: Mapping[str, Any], *, cap: int = COUNT_CAP) -> int:
        """How many records that order holds there, counted up to ``cap``."""
        ...

    async def write(self, *changes: Change) -> None:
        """All of it or none, durable on return; at most MOST_CHANGES, one for each record.

        Raises Taken, Stale, Invalid (nothing happened) or Unavailable (unknown whether it happened). Where the
        caller is cancelled it happened or it did not, never half.
        """

    async def take(
        self,
        kind: type[R],
        order: str,
        at: Mapping[str, Any],
        *,
        until: Any,
        n: int,
        put: Mapping[str, Any],
        add: Mapping[str, int],
    ) -> list[R]:
        """The first ``n`` records whose ``by`` is at most ``until``, changed, as they now are.

        Fields in ``put`` are set, those in ``add`` raised, the version goes up by one; ``put`` must move them past
        ``until``. Two takers never get the same record. May return fewer than ``n`` though more are due.
        """
        ...
