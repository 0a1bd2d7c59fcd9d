"""Outages: who tells the log that a store is away; one that tells nothing has it told by those who ask it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from loquent.domain.log import Log
from loquent.domain.outages import Outage


@runtime_checkable
class Tells(Protocol):
    """A store that knows more of why it is away than it may say to a caller."""

    outage: Outage


def database_outage() -> Outage:
    """A new one, of a database."""
    return Outage(Log("loquent.store"), gone="the database cannot be used", back="the database is back")


def outage_of(store: object) -> Outage:
    """That store's own; so each process tells once, whoever asks."""
    return store.outage if isinstance(store, Tells) else database_outage()
