"""Vectors of texts without a model: each word is a direction, so texts that share words lie near each other."""

from __future__ import annotations

import math
from array import array
from hashlib import blake2b

from loquent.domain.errors import Invalid

DIMENSIONS, MOST_DIMENSIONS = 64, 4096


def vector(text: str, dimensions: int | None) -> array[float]:
    """A unit vector: the words' signs, counted (feature hashing, Weinberger and others, 2009). Raises Invalid."""
    size = DIMENSIONS if dimensions is None else dimensions
    if not 1 <= size <= MOST_DIMENSIONS:
        raise Invalid(f"dimensions takes a whole number from 1 to {MOST_DIMENSIONS}", field="dimensions")
    counts = [0.0] * size
    for word in text.lower().split():
        number = int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest())
        counts[(number >> 1) % size] += 1 if number & 1 else -1
    length = math.hypot(*counts)
    if not length:  # no words, or words that cancel each other out
        return array("f", [1.0, *counts[1:]])
    return array("f", [count / length for count in counts])
