"""An engine: a way to reach models. One verb; not streaming is collecting the stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from loquent.domain.fixed import fixed, loose
from loquent.domain.models import Model
from loquent.domain.requests import AUTO, Message, Parameters, Tool
from loquent.domain.usage import Usage


@fixed
class Ask:
    """One call of a model: messages to answer, a prompt to go on from, or texts to make vectors of (one of the three).

    A recipe says what its caller asked for; when an engine sees it, ``model`` is the engine's own row, under the name
    that the caller knows, and the row's defaults stand under ``parameters``.
    """

    model: Model
    parameters: Parameters
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    streamed: bool = True  # False: nobody looks before the end, one chunk will do
    tools: tuple[Tool, ...] = ()  # only for models that have the ability
    tool_choice: str = AUTO  # NONE, AUTO or REQUIRED
    tool: str = ""  # the name of the one that has to be called; empty: as tool_choice says
    parallel_calls: bool | None = None  # whether one answer may ask for several calls; None: as the engine does
    texts: tuple[str, ...] = ()  # for EMBEDDINGS
    dimensions: int | None = None  # of the vectors, where the model lets one choose


@loose
class CallPiece:
    """A piece of a call of a tool: the first of each ``index`` has id and name, later ones go on with the arguments."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@loose
class Chunk:
    """A piece of the answer. The last pieces carry why it ended and what it used.

    An engine that reads OpenAI's wire also hands over the same piece as whole events, in ``wire``, and says whose
    they are in ``dialect``: a surface that speaks it sends those bytes in place of the text and the finish reason.
    """

    text: str = ""
    finish_reason: str | None = None  # stop | length | tool_calls | content_filter
    usage: Usage | None = None
    source: tuple[int, int] | None = None  # where this text stands in the input: characters [start, end)
    wire: bytes = b""
    dialect: str = ""  # of ``wire``: chat | completion
    calls: tuple[CallPiece, ...] = ()
    reasoning: str = ""  # what the model thought aloud before its answer, where the engine tells
    logprobs: tuple[Mapping[str, Any], ...] = ()  # a token each, as OpenAI's chat wire says it
    vectors: tuple[Sequence[float], ...] = ()  # one for each of the ask's texts, in their order, perhaps over chunks

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
