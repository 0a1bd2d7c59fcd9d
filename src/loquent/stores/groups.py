"""What waiting writes have in common: plain adds of one kind, and bumps of one record, become one statement each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from loquent.stores.sql import Call


@dataclass(slots=True)
class Group:
    """The calls of many jobs, sorted by what may be put together."""

    adds: dict[str, list[Sequence[Any]]] = field(default_factory=dict)  # the INSERT of one row, and the rows
    bumps: dict[tuple[str, Any], list[Any]] = field(default_factory=dict)  # by statement and id: the values
    rest: list[Call] = field(default_factory=list)


def grouped(calls: Iterable[Call]) -> Group:
    """These calls, sorted. Amounts that are added to one counter are summed."""
    group = Group()
    for call in calls:
        sql, values = call.sql, call.values
        if call.adds:
            group.adds.setdefault(sql, []).append(values)
        elif call.sums:
            known = group.bumps.get((sql, values[0]))
            if known is None:
                group.bumps[sql, values[0]] = list(values)
            else:
                for counter, amount in call.sums:  # what it is made with counts once, what is added each time
                    known[counter] += values[amount]
                    known[amount] += values[amount]
        else:
            group.rest.append(call)
    return group


@lru_cache(maxsize=256)
def of_rows(sql: str, n: int) -> str:
    """An INSERT of one row, as one of n."""
    head, _, row = sql.rpartition(" VALUES ")
    return f"{head} VALUES {', '.join([row] * n)}"
