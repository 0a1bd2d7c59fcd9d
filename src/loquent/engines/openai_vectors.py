"""Vectors of texts on OpenAI's wire."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from loquent.domain.errors import EngineFailed
from loquent.domain.usage import Usage
from loquent.engines.openai_ask import encode
from loquent.engines.openai_refusals import refusal
from loquent.engines.refusals import UNREADABLE
from loquent.ports.engine import Ask, Chunk


class Body(msgspec.Struct, omit_defaults=True):
    """What is asked. Vectors in base64 are read in a fifth of the time, and are a third as long on the way."""

    model: str
    input: Sequence[str]
    dimensions: int | None = None
    encoding_format: str | None = None


class Vector(msgspec.Struct):
    """One vector: four bytes a number, little end first, or plain numbers from servers that know nothing else."""

    embedding: bytes | list[float]
    index: int | None = None


class Tokens(msgspec.Struct):
    """What the engine counted."""

    prompt_tokens: int | None = None


class Answer(msgspec.Struct):
    """The vectors, or an error in the clothes of a success."""

    data: list[Vector] = []
    usage: Tokens | None = None
    error: Any = None


MOST = 3.4028234e38  # that 32 bits hold, in which vectors are given on

read = msgspec.json.Decoder(Answer).decode


def body(ask: Ask, id: str) -> bytes:
    """The texts as they were given, all in one call."""
    return encode(Body(id, ask.texts, ask.dimensions, "base64"))


def answer(data: bytes, content_type: str, ask: Ask, name: str, *, secret: str = "") -> Chunk:
    """The vectors in the order of the texts. Raises ours where they are not one a text, and all of one length."""
    try:
        said = read(data)
        vectors = [_numbers(each.embedding) for each in _in_order(said.data)]
    except (*UNREADABLE, ValueError) as broken:
        raise EngineFailed(
            f"model {name}: the engine's vectors cannot be read ({content_type or 'no type'})"
        ) from broken
    if said.error is not None:
        raise refusal(0, {}, data, name, secret=secret)
    if len(vectors) != len(ask.texts) or len(set(map(len, vectors))) != 1 or not vectors[0]:
        raise EngineFailed(f"model {name}: the engine made {len(vectors)} vectors of {len(ask.texts)} texts")
    usage = None if said.usage is None else Usage(max(0, said.usage.prompt_tokens or 0), 0)
    return Chunk(usage=usage, vectors=tuple(vectors))


def _in_order(vectors: list[Vector]) -> list[Vector]:
    """By their numbers, each once. Servers that give none keep to the order. Raises ValueError."""
    numbers = [place if each.index is None else each.index for place, each in enumerate(vectors)]
    if sorted(numbers) != list(range(len(vectors))):
        raise ValueError(numbers)
    return [vector for _, vector in sorted(zip(numbers, vectors, strict=True), key=lambda pair: pair[0])]


def _numbers(embedding: bytes | list[float]) -> Sequence[float]:
    """Raises ValueError where one of them is no number."""
    numbers: Sequence[float] = embedding if isinstance(embedding, list) else _unpacked(embedding)
    if not math.isfinite(sum(numbers)) or max(map(abs, numbers), default=0.0) > MOST:
        raise ValueError("not a number")
    return numbers


def _unpacked(packed: bytes) -> array[float]:
    numbers = array("f")
    numbers.frombytes(packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
