"""Embeddings: vectors of texts, given to the caller and kept nowhere; that they were made is on the record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from loquent.domain.errors import Cancelled, Unavailable
from loquent.domain.models import EMBEDDINGS
from loquent.domain.principals import Principal
from loquent.services.generations import Generations
from loquent.services.models import Models
from loquent.services.wanted import Begun, Wanted


@dataclass(frozen=True, slots=True)
class Embedded:
    """What was made: a vector for each text, in their order."""

    begun: Begun
    vectors: Sequence[Sequence[float]]


class Embeddings:
    """Makes vectors. Each call is a generation of the kind ``embedding``, with its usage and its cost."""

    def __init__(self, generations: Generations, models: Models) -> None:
        self._generations = generations
        self._models = models

    async def embed(
        self,
        who: Principal,
        texts: Sequence[str],
        *,
        surface: str,
        model: str | None = None,
        dimensions: int | None = None,
    ) -> Embedded:
        """The vectors of these, by that model (None: the first that can and that ``who`` may use).

        Raises NotFound, Invalid, Over, Unavailable, EngineFailed …; Cancelled where somebody ended it.
        """
        wanted = Wanted(
            kind="embedding",
            surface=surface,
            input={"texts": list(texts), **({"dimensions": dimensions} if dimensions is not None else {})},
            text=texts[0],
            model=model or self._first(who),
            needs=(EMBEDDINGS,),
        )
        begun = await self._generations.begin(who, wanted)
        vectors: list[Sequence[float]] = []
        async with aclosing(self._generations.stream(begun)) as chunks:  # type: ignore[type-var]  # they are generators
            async for chunk in chunks:
                vectors += chunk.vectors
        if len(vectors) < len(texts):
            raise Cancelled("it was ended before all vectors were made")
        return Embedded(begun, vectors)

    def _first(self, who: Principal) -> str:
        first = self._models.first(EMBEDDINGS, who=who)
        if not first:
            raise Unavailable("no model is configured that makes embeddings; set LOQUENT_MODELS")
        return first
