"""What a GGUF file says of itself in its first lines: the architecture and how long a context the model knows.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONGEST = 1 << 24  # bytes of one string: a damaged length must not fill the memory
MOST = 4096  # entries that are looked at


@dataclass(frozen=True, slots=True)
class Header:
    """The few facts that are needed before a model is loaded."""

    architecture: str
    context: int | None  # tokens the model was trained for; None where the file does not say


def header(path: Path) -> Header:
    """Read them; the weights themselves are not touched. Raises ValueError where it is no GGUF file, and OSError."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path.name} is not a GGUF file")
        version, _, entries = _unpack(file, "IQQ")
        if version < 2:
            raise ValueError(f"{path.name} is in version {version} of GGUF, which is no longer read")
        architecture = ""
        for _ in range(min(entries, MOST)):
            key = _string(file)
            value = _value(file, _unpack(file, "I")[0])
            if key == "general.architecture":
                architecture = str(value)
            elif key == f"{architecture}.context_length":
                return Header(architecture, int(value))
    return Header(architecture, None)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _string(file)
    if kind == ARRAY:
        inner, count = _unpack(file, "IQ")
        if inner in NUMBERS:
            file.seek(count * struct.calcsize("<" + NUMBERS[inner]), 1)
        else:
            for _ in range(count):
                _value(file, inner)
        return None
    if kind not in NUMBERS:
        raise ValueError(f"a GGUF value of the unknown type {kind}: the file is damaged")
    return _unpack(file, NUMBERS[kind])[0]


def _string(file: BinaryIO) -> str:
    length = _unpack(file, "Q")[0]
    if length > LONGEST:
        raise ValueError("a GGUF string is longer than any can be: the file is damaged")
    return file.read(length).decode("utf-8", "replace")


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    form = "<" + form
    read = file.read(struct.calcsize(form))
    try:
        return struct.unpack(form, read)
    except struct.error as short:
        raise ValueError("the GGUF file ends in its first lines: it is cut off") from short
