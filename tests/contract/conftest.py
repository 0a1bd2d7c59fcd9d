"""Fixtures of the contracts: each backend of a seam from its table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from loquent.stores import Keeper
from ministack_server import ministack_server

from .stores import BACKENDS, Backend, Place


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """DynamoDB's stand-in for all tests of this process: its address."""
    with ministack_server(tmp_path_factory.mktemp("ministack")) as address:
        yield address


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    backend: Backend = request.param
    return Place(backend, backend.url(request, tmp_path), tmp_path)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Keeper]:
    opened = await place.open()
    yield opened
    await opened.close()
