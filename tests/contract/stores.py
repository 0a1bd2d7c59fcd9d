"""The table of stores that the contract is held against."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from loquent.stores import Keeper, connect
from postgres_server import PostgresServer


@dataclass(frozen=True)
class Backend:
    """A row: how a URL for an empty store of its own is come by, and what it can do beside the contract."""

    name: str
    url: Callable[[pytest.FixtureRequest, Path], str]
    keeps: bool = True  # what was written is there again after another open


class Place:
    """An empty store that can be opened more than once."""

    def __init__(self, backend: Backend, url: str, data_dir: Path) -> None:
        self.backend, self.url, self.data_dir = backend, url, data_dir

    async def open(self) -> Keeper:
        store = connect(self.url, data_dir=self.data_dir)
        await store.upgrade()
        await store.open()
        return store


def _emulated(request: pytest.FixtureRequest, folder: Path) -> str:
    address = request.getfixturevalue("emulator")
    return f"dynamodb://{address}/loquent-{uuid.uuid4().hex}?region=eu-central-1"


def _served(request: pytest.FixtureRequest, folder: Path) -> str:
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database(like=request.getfixturevalue("migrated"))


BACKENDS = (
    Backend("memory", lambda request, folder: "memory:", keeps=False),
    Backend("sqlite", lambda request, folder: f"sqlite:///{folder}/loquent.db"),
    Backend("postgresql", _served),
    Backend("dynamodb", _emulated),
)
