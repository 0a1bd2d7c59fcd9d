"""Fixtures of the contracts: each backend of a seam from its table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loquent.stores import Keeper, connect
from ministack_server import ministack_server
from postgres_server import PostgresServer
from samples import gguf

from .engines import WEIGHTS, weights
from .llamas import LAYERS
from .stores import BACKENDS, Backend, Place


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """DynamoDB's stand-in for all tests of this process: its address."""
    with ministack_server(tmp_path_factory.mktemp("ministack")) as address:
        yield address


@pytest.fixture(scope="session")
def migrated(postgres: PostgresServer) -> str:
    """The name of a database with all our tables, to copy: to make them takes longer than most tests."""
    url = postgres.database()
    with ThreadPoolExecutor(1) as aside:  # where no other event loop is
        aside.submit(asyncio.run, connect(url, data_dir=Path()).upgrade()).result()
    return url.rpartition("/")[2]


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of the real model, in a folder of their own: quick, for tests to which sense is no matter."""
    return gguf.shortened(weights(), tmp_path_factory.mktemp("short") / WEIGHTS, layers=LAYERS)


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    backend: Backend = request.param
    return Place(backend, backend.url(request, tmp_path), tmp_path)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Keeper]:
    opened = await place.open()
    yield opened
    await opened.close()
