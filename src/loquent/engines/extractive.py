"""The engine without a model: it answers a text with the sentences that carry it, word for word.

It takes texts of any length in any language, invents nothing, says of each sentence where it stands, and gives the
same answer every time. Temperature and its like mean nothing to it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from threading import Event
from typing import TYPE_CHECKING

from loquent.domain.errors import Invalid, Unavailable
from loquent.domain.extracts import choose
from loquent.domain.models import Model
from loquent.domain.texts import CLOSING, STRONG, Span
from loquent.domain.usage import Usage, estimate_tokens
from loquent.ports.engine import Ask, Chunk

if TYPE_CHECKING:
    from loquent.engines import Options

TOKENS = 150  # of an answer, where nothing else is asked for: a paragraph
AT_ONCE = 2  # texts that are worked on at the same time; it is all processor time
TURN = 0.002  # seconds after which the work lets the event loop have its turn

_WIDE = r"[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"
_WRAP = re.compile(rf"(?<=[^\W\d_]-)\s*\n\s*|(?<={_WIDE})\s*\n\s*(?={_WIDE})")


class Extractive:
    """Chooses sentences. Needs no model, no file and no network, and is always ready."""

    def __init__(self, model: Model, options: Options) -> None:
        self._model = model
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._running: set[Event] = set()

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """End what is running."""
        for stop in self._running:
            stop.set()

    async def ready(self) -> None:
        """Always."""

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """The sentences in the text's order, each with its span; the white space between them stands before each."""
        text = _text(ask)
        tokens = ask.parameters.max_tokens or TOKENS
        chunks = _chunks(text, await self._choose(text, tokens))
        chunks = _until(chunks, ask.parameters.stop)
        for chunk in chunks:
            yield chunk
        answer = "".join(chunk.text for chunk in chunks)
        usage = Usage(estimate_tokens(text), estimate_tokens(answer), estimated=True)
        yield Chunk(finish_reason="stop", usage=usage)

    async def _choose(self, text: str, tokens: int) -> list[Span]:
        """The choice, made in a thread that ends soon after nobody waits for it any more."""
        stop = Event()
        self._running.add(stop)
        try:
            async with self._turns:
                return await asyncio.to_thread(choose, text, tokens, _Pause(stop))
        except _Stopped:
            raise Unavailable("the engine has been closed") from None
        finally:
            self._running.discard(stop)
            stop.set()


class _Stopped(Exception):
    """Nobody waits for the choice any more."""


class _Pause:
    """Called by the work many times a second: ends it where it is to stop, and gives the event loop its turn."""

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._since = time.perf_counter()

    def __call__(self) -> None:
        if self._stop.is_set():
            raise _Stopped
        if time.perf_counter() - self._since > TURN:
            time.sleep(0.000_01)
            self._since = time.perf_counter()


def _text(ask: Ask) -> str:
    """The text to choose from: the prompt, or what the user said last."""
    said = (message.content for message in reversed(ask.messages) if message.role == "user")
    text = ask.prompt if ask.prompt is not None else next(said, "")
    if not re.search(r"\w", text):
        raise Invalid("there is no text to choose sentences from", field="messages" if ask.messages else "prompt")
    return text


def _chunks(text: str, spans: list[Span]) -> list[Chunk]:
    """The sentences, on one line each and parted so that they read as one paragraph."""
    chunks: list[Chunk] = []
    before = ""
    for start, end in spans:
        sentence = " ".join(_WRAP.sub("", text[start:end]).split())
        chunks.append(Chunk(_gap(before) + sentence, source=(start, end)))
        before = sentence
    return chunks


def _gap(before: str) -> str:
    """What stands between a sentence and the next."""
    last = before.rstrip(CLOSING)[-1:]
    if not last or last in "。！？｡":
        return ""
    return " " if last in ".!?…" + STRONG else "\n"


def _until(chunks: list[Chunk], stops: tuple[str, ...]) -> list[Chunk]:
    """What comes before the first stop string; a sentence that is cut by it keeps its span."""
    answer = "".join(chunk.text for chunk in chunks)
    left = min((place for stop in stops if (place := answer.find(stop)) >= 0), default=len(answer))
    kept = []
    for chunk in chunks:
        if left <= 0:
            break
        kept.append(Chunk(chunk.text[:left], source=chunk.source))
        left -= len(chunk.text)
    return kept
