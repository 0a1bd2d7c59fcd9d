"""Embeddings within: an engine that makes too few vectors, or crooked ones, has failed, and the record says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from built import ANN, opened
from loquent.domain.errors import EngineFailed
from loquent.domain.generations import FAILED
from loquent.domain.models import EMBEDDINGS, Model
from loquent.ports.engine import Ask, Chunk
from loquent.services.history import Filters
from loquent.services.models import Offer

pytestmark = pytest.mark.anyio


@dataclass
class Made:
    """An engine that makes these vectors, whatever it is asked."""

    chunks: Sequence[Chunk]

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port."""

    async def ready(self) -> None:
        """See the port."""

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port."""
        for chunk in self.chunks:
            yield chunk


@pytest.mark.parametrize(
    "vectors", [(), ((1.0, 2.0),), ((1.0,), (1.0, 2.0)), ((), ()), ((1.0,), (2.0,), (3.0,))], ids=str
)
async def test_vectors_that_are_not_one_a_text_are_a_fault_of_the_engine(
    tmp_path: Path, vectors: tuple[tuple[float, ...], ...]
) -> None:
    async with opened(tmp_path) as services:
        row = Model("made", "echo", "made", abilities=frozenset((EMBEDDINGS,)))
        services.models.put([Offer(row, Made([Chunk(vectors=vectors)]))])
        with pytest.raises(EngineFailed, match="2 texts"):
            await services.embeddings.embed(ANN, ["one", "two"], surface="api")
        [record] = (await services.history.page(ANN, Filters(kind="embedding"), limit=10)).items
        assert (record.status, record.error_code, record.model) == (FAILED, "engine_failed", "made")


async def test_vectors_may_come_in_several_pieces(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        row = Model("made", "echo", "made", abilities=frozenset((EMBEDDINGS,)))
        pieces = [Chunk(vectors=((1.0, 0.0),)), Chunk(vectors=((0.0, 1.0),)), Chunk()]
        services.models.put([Offer(row, Made(pieces))])
        made = await services.embeddings.embed(ANN, ["one", "two"], surface="api")
        assert list(made.vectors) == [(1.0, 0.0), (0.0, 1.0)]
