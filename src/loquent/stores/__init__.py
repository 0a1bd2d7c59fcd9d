"""Where records live: one file per backend, named by the scheme of a URL, loaded only when used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loquent.domain.errors import Misconfigured
from loquent.domain.urls import without_password
from loquent.ports.backends import named
from loquent.ports.store import Store

SCHEMES: Mapping[str, str] = {
    "memory": "loquent.stores.memory:Memory",
    "sqlite": "loquent.stores.sqlite:Sqlite",
    "postgresql": "loquent.stores.postgres:Postgres",
    "postgres": "loquent.stores.postgres:Postgres",
    "dynamodb": "loquent.stores.dynamodb:DynamoDB",
}
"""Each scheme with the class that speaks it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at a store found: its revision, the program's, and what is wrong, in words (nothing: sound)."""

    current: str | None
    head: str | None
    findings: tuple[str, ...] = ()


class Keeper(Store, Protocol):
    """A store whose schema can be looked at and brought up to date, without opening it first."""

    async def upgrade(self) -> None:
        """Bring an empty or older schema up to the program's. Raises Misconfigured or Unavailable."""

    async def check(self) -> Checked:
        """Look at the schema and at the soundness of what is stored. Raises Misconfigured or Unavailable."""
        ...


def connect(url: str, *, data_dir: Path) -> Keeper:
    """The store that a URL names, not yet open. Raises Misconfigured."""
    store: Keeper = named(url, SCHEMES, "LOQUENT_STORE")(url, data_dir)
    return store


async def upgrade(url: str, data_dir: Path) -> Checked:
    """Bring the schema of the store at that URL up to date, and say how it stands then."""
    store = connect(url, data_dir=data_dir)
    await store.upgrade()
    return await store.check()


async def back_up(url: str, file: Path) -> None:
    """Write an SQLite's records, as they stand at one moment, to a file. Raises Misconfigured for other stores."""
    database = file_of(url)
    if database is None:
        raise Misconfigured(
            f"LOQUENT_STORE holds {without_password(url)}: its own tools back it up, PostgreSQL's pg_dump, say"
        )
    from loquent.stores.backup import back_up as write

    await asyncio.to_thread(write, database, file)


def file_of(url: str) -> Path | None:
    """The file of an SQLite; None for any other store."""
    scheme, _, path = url.partition("?")[0].partition(":///")
    return Path(path) if scheme == "sqlite" else None


async def check(url: str, data_dir: Path) -> Checked:
    """How the store at that URL stands."""
    return await connect(url, data_dir=data_dir).check()
