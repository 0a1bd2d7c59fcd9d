"""An answer that comes as server-sent events, whatever they say: bytes in, whole events out, each within bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod

from loquent.domain.errors import EngineFailed
from loquent.domain.usage import Usage
from loquent.ports.engine import Chunk

MOST_EVENT = 8 * 1024 * 1024  # bytes of one event


class Events(ABC):
    """One streamed answer: bytes in, chunks out. A wire says what an event means."""

    def __init__(self, name: str, secret: str = "") -> None:
        self.usage: Usage | None = None
        self.is_over = False
        self._is_finished = False  # it was said why the answer ends
        self._name = name
        self._secret = secret  # the key, which no message may hold
        self._rest = b""

    @abstractmethod
    def _chunk(self, blocks: list[bytes]) -> Chunk | None:
        """What whole events say: their lines, without the empty one behind them; some have no lines at all."""

    def take(self, data: bytes) -> Chunk | None:
        """What these bytes complete; None where that is nothing yet."""
        if self._rest:
            data = self._rest + data
        late = b""
        if b"\r" in data:  # JSON has none inside a string: they are line ends
            if data.endswith(b"\r"):  # its \n may be on the way
                data, late = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = data.split(b"\n\n")
        if len(rest) > MOST_EVENT:
            raise EngineFailed(f"model {self._name}: an event of the engine has no end")
        self._rest = rest + late
        return self._chunk(blocks) if blocks else None

    def end(self) -> Chunk | None:
        """The connection is at its end: what is left may be an event without the empty line behind it."""
        last = self._chunk([self._rest.rstrip(b"\r\n")])
        if not self._is_finished and not self.is_over:
            raise EngineFailed(f"model {self._name}: the engine's answer was cut")
        self.is_over = True
        return last


def payload_of(block: bytes) -> bytes:
    """The data of an event with more than one plain line: comments, names and ids are left out (WHATWG, SSE)."""
    lines = block.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    fields = [line.partition(b":") for line in lines]
    if any(name == b"error" for name, _, _ in fields):  # some say so by the field's name
        lines = [b"data:" + value for name, _, value in fields if name == b"error"]
    data = [line.removeprefix(b"data:").removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b" ".join(data)  # one line again: where lines of JSON meet, a space does as well
