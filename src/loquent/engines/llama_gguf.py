"""What a GGUF file says of itself in its first lines: what it is, and what it needs of memory for each token.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONGEST = 1 << 24  # bytes of one string: a damaged length must not fill the memory
FURTHEST = 1 << 40  # bytes that are passed over at once
MOST = 4096  # entries that are looked at
LAYERS = 4096  # numbers of a list that is kept: one for each layer, say; longer ones are the tokenizer's
TEMPLATE = "tokenizer.chat_template"
HALF = 2  # bytes of a number in the cache


@dataclass(frozen=True, slots=True)
class Header:
    """The few facts that are needed before a model is loaded."""

    architecture: str = ""
    entries: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def context(self) -> int | None:
        """Tokens the model was trained for; None where the file does not say."""
        known = self.of("context_length")
        return int(known) if known else None

    @property
    def template(self) -> str:
        """How a chat is written for it; empty: not known."""
        return str(self.entries.get(TEMPLATE, ""))

    def of(self, name: str, otherwise: Any = 0) -> Any:
        """An entry of the architecture's own."""
        return self.entries.get(f"{self.architecture}.{name}", otherwise)

    def cache(self, tokens: int) -> int:
        """Bytes that it remembers so many tokens by; too many where some layers look back only a little."""
        heads = self.of("attention.head_count")
        of_layers = self.of("attention.head_count_kv", heads)
        shared = sum(of_layers) if isinstance(of_layers, list) else of_layers * self.of("block_count")
        most = max(heads) if isinstance(heads, list) else heads
        size = self.of("embedding_length") // max(1, most)
        width = self.of("attention.key_length", size) + self.of("attention.value_length", size)
        return int(tokens * shared * width * HALF)

    def work(self, batch: int) -> int:
        """Bytes that a batch of so many tokens passes through: their likelihoods, and the widest layer twice."""
        forward = self.of("feed_forward_length")
        widest = max(forward) if isinstance(forward, list) else forward
        return int(batch * (self.of("vocab_size", 1 << 17) + 2 * widest + 4 * self.of("embedding_length")) * 4)


def header(path: Path, *, with_template: bool = False) -> Header:
    """Read them; the weights themselves are not touched. Raises ValueError where it is no GGUF file, and OSError.

    ``with_template``: read on through the tokenizer, which stands between and is long.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path.name} is not a GGUF file")
        version, _, count = _unpack(file, "IQQ")
        if version < 2:
            raise ValueError(f"{path.name} is in version {version} of GGUF, which is no longer read")
        entries: dict[str, Any] = {}
        for _ in range(min(count, MOST)):
            key = _string(file)
            architecture = str(entries.get("general.architecture", ""))
            if key.startswith("tokenizer.") and not with_template and f"{architecture}.context_length" in entries:
                break
            entries[key] = _value(file, _unpack(file, "I")[0])
            if key == TEMPLATE:
                break
    return Header(str(entries.get("general.architecture", "")), entries)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _string(file)
    if kind == ARRAY:
        return _list(file)
    if kind not in NUMBERS:
        raise ValueError(f"a GGUF value of the unknown type {kind}: the file is damaged")
    return _unpack(file, NUMBERS[kind])[0]


def _list(file: BinaryIO) -> list[Any] | None:
    """A list of numbers that is not long; the others are passed over."""
    inner, count = _unpack(file, "IQ")
    if inner in NUMBERS:
        if count <= LAYERS:
            return list(_unpack(file, f"{count}{NUMBERS[inner]}"))
        _skip(file, count * struct.calcsize("<" + NUMBERS[inner]))
    elif inner == STRING:
        for _ in range(count):
            _skip(file, _unpack(file, "Q")[0])
    else:
        for _ in range(count):
            _value(file, inner)
    return None


def _string(file: BinaryIO) -> str:
    length = _unpack(file, "Q")[0]
    if length > LONGEST:
        raise ValueError("a GGUF string is longer than any can be: the file is damaged")
    return file.read(length).decode("utf-8", "replace")


def _skip(file: BinaryIO, count: int) -> None:
    if count > FURTHEST:
        raise ValueError("a GGUF list is longer than any can be: the file is damaged")
    file.seek(count, 1)


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    form = "<" + form
    read = file.read(struct.calcsize(form))
    try:
        return struct.unpack(form, read)
    except struct.error as short:
        raise ValueError("the GGUF file ends in its first lines: it is cut off") from short
