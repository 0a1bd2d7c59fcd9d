"""OpenAI's surface, /v1/embeddings: vectors of texts, as numbers or in base64."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from pydantic import Field

from loquent.web.answers import headers_of
from loquent.web.api.embeddings import Texts, as_numbers, written
from loquent.web.compat.openai import ANSWERS, caller
from loquent.web.direct import Call, Direct


class OpenAIEmbeddings(Texts):
    """The body of a call for embeddings."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


async def embeddings(call: Call) -> None:
    """Make a vector of each text, at most 2,048. `base64` holds each as little-endian numbers of 32 bits."""
    who = caller(call)
    body = await call.body(OpenAIEmbeddings)
    write = in_base64 if body.encoding_format == "base64" else as_numbers
    with call.watch():
        made = await call.services.embeddings.embed(
            who, body.texts(), surface="openai", model=body.model, dimensions=body.dimensions
        )
        generation, _ = made.begun.now()
        used = generation.prompt_tokens or 0
        answer = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": number, "embedding": each}
                async for number, each in written(made, write)
            ],
            "model": generation.model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }
    await call.reply(msgspec.json.encode(answer), headers=headers_of(made.begun))


def in_base64(vector: Sequence[float]) -> bytes:
    """A vector as the official SDKs ask for it by default, as a JSON text."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b'"%s"' % base64.b64encode(numbers)


CREATE = Direct(
    path="/v1/embeddings",
    handler=embeddings,
    body=OpenAIEmbeddings,
    summary="Embeddings",
    tags=("openai",),
    answers={**ANSWERS, "200": "The vectors, in the order of the texts"},
)
