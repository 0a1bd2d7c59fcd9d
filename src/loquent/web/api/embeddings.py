"""Embeddings: vectors of texts, for search and likeness. They are given to the caller and kept nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

import msgspec
from pydantic import Field, field_validator

from loquent.services.embeddings import Embedded
from loquent.web.answers import headers_of
from loquent.web.api.shown import common
from loquent.web.body import Wire
from loquent.web.direct import Call, Direct
from loquent.web.messages import LONGEST

MOST_TEXTS = 2_048
MOST_AT_ONCE = 32  # vectors that are written before others have their turn: a long list of them takes seconds
NonEmpty = Annotated[str, Field(min_length=1, max_length=LONGEST)]


class Texts(Wire):
    """What vectors are made of: a text, or several."""

    input: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1, max_length=MOST_TEXTS)]
    dimensions: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _is_of_texts(cls, given: Any) -> Any:
        if isinstance(given, list) and given and isinstance(given[0], int | list) and not isinstance(given[0], bool):
            raise ValueError("lists of tokens are not taken, since every model has its own; send texts")
        return given

    def texts(self) -> list[str]:
        """All of them, in their order."""
        return [self.input] if isinstance(self.input, str) else self.input


class NewEmbeddings(Texts):
    """The body: without a model, the first that makes embeddings."""

    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None


async def create_embeddings(call: Call) -> None:
    """Make a vector of each text, at most 2,048. The call is in the history as a generation; the vectors are not kept.

    It can be repeated as one likes: an Idempotency-Key is left.
    """
    who = call.who()
    body = await call.body(NewEmbeddings)
    with call.watch():
        made = await call.services.embeddings.embed(
            who, body.texts(), surface="api", model=body.model, dimensions=body.dimensions
        )
        generation, _ = made.begun.now()
        told = common(generation)
        answer = {
            "object": "list",
            "data": [{"index": number, "embedding": each} async for number, each in written(made, as_numbers)],
            "model": generation.model,
            "usage": told["usage"],
            "cost": told["cost"],
            "id": generation.id,
        }
    await call.reply(msgspec.json.encode(answer), headers=headers_of(made.begun))


async def written(made: Embedded, write: Callable[[Sequence[float]], bytes]) -> AsyncIterator[tuple[int, msgspec.Raw]]:
    """Each vector, with its number, as JSON; others have their turn meanwhile."""
    for number, vector in enumerate(made.vectors):
        if number % MOST_AT_ONCE == MOST_AT_ONCE - 1:
            await asyncio.sleep(0)
        yield number, msgspec.Raw(write(vector))


def as_numbers(vector: Sequence[float]) -> bytes:
    """A vector as a list of numbers."""
    return msgspec.json.encode(list(vector))


CREATE = Direct(
    path="/api/v1/embeddings",
    handler=create_embeddings,
    body=NewEmbeddings,
    summary="Make vectors of texts",
    tags=("embeddings",),
    answers={
        "200": "The vectors, in the order of the texts",
        "404": "There is no such model",
        "422": "What was asked cannot be done as asked",
        "429": "Over the rate; Retry-After tells when to come again",
        "503": "The model is loading or away, or none makes embeddings",
    },
)
