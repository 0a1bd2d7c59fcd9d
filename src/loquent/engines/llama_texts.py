"""Texts to vectors by llama.cpp, a few at a time, so that whoever hangs up is noticed between them."""

from __future__ import annotations

import json
import re
import struct
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

from loquent.domain.errors import ContextOverflow, EngineFailed, Invalid, LoquentError
from loquent.domain.usage import Usage
from loquent.ports.engine import Ask, Chunk


def check(ask: Ask) -> None:
    """Raise Invalid where llama.cpp cannot make these vectors."""
    if ask.dimensions is not None:
        raise Invalid(f"model {ask.model.name} makes vectors of one size; leave dimensions out", field="dimensions")
    for text in ask.texts:
        if not text:
            raise Invalid("a text to make a vector of is empty", field="input")
        try:
            text.encode()
        except UnicodeEncodeError as lone:
            raise Invalid("the text holds half a character (a lone surrogate)", field="input") from lone


def chunks(texts: tuple[str, ...], together: int, handle: Callable[[bytes], bytes]) -> Iterator[Chunk]:
    """The vectors, each of length one, in the order of the texts, and what they used. Raises our errors."""
    tokens = 0
    for start in range(0, len(texts), together):
        group = texts[start : start + together]
        body = {"input": group, "encoding_format": "base64"}  # a third of the bytes, and no digits to read
        answer = json.loads(handle(json.dumps(body, ensure_ascii=False).encode()))
        if "error" in answer:
            raise _fault(answer["error"])
        tokens += answer["usage"]["prompt_tokens"]
        made = sorted(answer["data"], key=lambda each: each["index"])
        yield Chunk(vectors=tuple(_numbers(each["embedding"]) for each in made))
    yield Chunk(finish_reason="stop", usage=Usage(tokens, 0))


def _numbers(encoded: str) -> tuple[float, ...]:
    packed = b64decode(encoded)
    return struct.unpack(f"<{len(packed) // 4}f", packed)


def _fault(error: Any) -> LoquentError:
    said = str(error.get("message", ""))
    if too_long := re.search(r"input \((\d+) tokens\) is (?:too large|larger than).*?size[^\d]*(\d+)", said):
        needed, room = too_long.groups()
        return ContextOverflow(f"a text is {needed} tokens, and the model takes {room}")
    if error.get("code") == 400:
        return Invalid("llama.cpp cannot make vectors of these texts", field="input")
    return EngineFailed(f"llama.cpp failed: {error.get('type') or 'no reason given'}")
