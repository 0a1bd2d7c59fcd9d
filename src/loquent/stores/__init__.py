"""Where records live: one file per backend, named by the scheme of a URL, loaded only when used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from loquent.domain.errors import Misconfigured
from loquent.ports.store import Store

SCHEMES: Mapping[str, str] = {
    "memory": "loquent.stores.memory:Memory",
    "sqlite": "loquent.stores.sqlite:Sqlite",
    "dynamodb": "loquent.stores.dynamodb:DynamoDB",
}
"""Each scheme with the class that speaks it. ``sqlite+aiosqlite:`` and the like mean the scheme before the plus."""


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
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme not in SCHEMES or ":" not in url:
        takes = ", ".join(f"{each}:" for each in SCHEMES)
        raise Misconfigured(f"LOQUENT_STORE holds {_shown(url)!r}; it takes a URL that begins with one of {takes}")
    module, _, name = SCHEMES[scheme].partition(":")
    try:
        store: Keeper = getattr(import_module(module), name)(url, data_dir)
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"LOQUENT_STORE holds {_shown(url)!r}, which needs {error.name}: pip install 'loquent[{scheme}]'"
        ) from error
    return store


async def upgrade(url: str, data_dir: Path) -> Checked:
    """Bring the schema of the store at that URL up to date, and say how it stands then."""
    store = connect(url, data_dir=data_dir)
    await store.upgrade()
    return await store.check()


async def check(url: str, data_dir: Path) -> Checked:
    """How the store at that URL stands."""
    return await connect(url, data_dir=data_dir).check()


def _shown(url: str) -> str:
    """The URL without a password in it."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url
