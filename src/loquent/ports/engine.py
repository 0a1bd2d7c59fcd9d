"""An engine: a way to reach models. One verb; not streaming is collecting the stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from loquent.domain.fixed import fixed
from loquent.domain.models import Model
from loquent.domain.requests import Message, Parameters
from loquent.domain.usage import Usage


@fixed
class Ask:
    """One call of a model: messages to answer, or a prompt to go on from (never both)."""

    model: Model
    parameters: Parameters  # the row's defaults already under them
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    streamed: bool = True  # False: nobody looks before the end, one chunk will do


@dataclass(slots=True)
class Chunk:
    """A piece of the answer. The last pieces carry why it ended and what it used.

    An engine that reads OpenAI's wire also hands over the same piece as whole events, in ``wire``, and says whose
    they are in ``dialect``: a surface that speaks it sends those bytes in place of the text and the finish reason.
    """

    text: str = ""
    finish_reason: str | None = None  # stop | length
    usage: Usage | None = None
    source: tuple[int, int] | None = None  # where this text stands in the input: characters [start, end)
    wire: bytes = b""
    dialect: str = ""  # of ``wire``: chat | completion

    def parts(self) -> list[Chunk]:
        """The same as plain chunks."""
        return [self]


class Engine(Protocol):
    """A way to reach models.

    What always holds: text comes in order and whole, never cut inside a character; at most one finish reason, after
    the last text; a Usage at the end where the engine knows it. Closing or cancelling the iterator frees whatever
    the engine held for it within a second. Stop strings never appear in the text. Errors, before or after the first
    chunk, are ours: ContextOverflow and Invalid (the asker's fault), Unavailable, ModelLoading and EngineBusy (later),
    EngineTimeout, EngineFailed; a secret or a prompt never stands in their message.
    """

    async def open(self) -> None:
        """Get ready without waiting for it: loading a model goes on in the background. Raises Misconfigured."""

    async def close(self) -> None:
        """End what is running and let go of everything. May be called twice."""

    async def ready(self) -> None:
        """Return quickly where a call would be answered now; raises ModelLoading or Unavailable where not."""

    def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """The answer, piece by piece, as it comes."""
        ...
