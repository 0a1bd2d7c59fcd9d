"""A response as it is made: the typed events of OpenAI's stream, from the pieces of an answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from loquent.domain.errors import LoquentError, Unavailable
from loquent.domain.generations import COMPLETED, FAILED, Content, Generation, Json
from loquent.domain.principals import Principal
from loquent.ports.engine import CallPiece, Chunk
from loquent.services.generations import Event, Generations
from loquent.services.wanted import Begun
from loquent.web.compat.openai_wire import again
from loquent.web.compat.responses_wire import (
    IN_PROGRESS,
    INCOMPLETE,
    QUEUED,
    call_item,
    item_id,
    item_status,
    message_item,
    reasoning_item,
    shown,
    shown_logprobs,
    status_of,
    summary_part,
    text_part,
)
from loquent.web.sse import event

QUIET = b": still here\n\n"
MESSAGE, REASONING, CALL = "message", "reasoning", "call"
PREFIXES = {MESSAGE: "msg", REASONING: "rs", CALL: "fc"}


@dataclass(slots=True)
class Item:
    """A part of the output that is being made."""

    kind: str
    place: int  # in the output
    id: str
    call: tuple[int, str, str] = (0, "", "")  # of a call: the engine's number for it, its id and its name
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    is_open: bool = True

    @property
    def text(self) -> str:
        """What of it has come."""
        return "".join(self.texts)

    def shown(self, status: str) -> dict[str, Any]:
        """The item, whole."""
        if self.kind == MESSAGE:
            return message_item(self.id, self.text, self.logprobs, status)
        if self.kind == REASONING:
            return reasoning_item(self.id, self.text, status)
        _, id, name = self.call
        return call_item(self.id, {"id": id, "name": name, "arguments": self.text}, status)

    def begun(self) -> dict[str, Any]:
        """The same before anything of it has come."""
        empty: dict[str, Any] = {MESSAGE: {"content": []}, REASONING: {"summary": []}}.get(self.kind, {})
        return {**self.shown(IN_PROGRESS), **empty}


class Events:
    """The events of one answer, in order. The first piece brings those that begin it.

    Events have consecutive numbers. Of one that is followed, whose pieces come cut in another way each time, a text
    counts as many as it has characters; so each number means the same to whoever follows it again, and only what
    stands behind ``after`` is told.
    """

    def __init__(self, generation: Generation, content: Content, *, followed: bool = False, after: int = -1) -> None:
        self._generation = generation
        self._content = content
        self._followed = followed
        self._after = after
        self._number = -1
        self._items: list[Item] = []
        self._is_running = False

    @property
    def has_begun(self) -> bool:
        """Whether anything was told."""
        return self._number >= 0

    def begin(self) -> bytes:
        """That it exists; of one that is followed, without waiting for its first piece."""
        return b"".join(self._begin())

    def take(self, part: Chunk) -> bytes:
        """What a piece of the answer brings."""
        return b"".join(self._take(part))

    def end(self, generation: Generation, content: Content) -> bytes:
        """How it ended."""
        return b"".join(self._end(generation, content))

    def fault(self, error: LoquentError, begun: Begun | None = None) -> bytes:
        """That something went wrong: with the response, where it has come to its end, or with what tells of it."""
        if begun is not None and (ended := begun.now())[0].is_over:
            return self.end(*ended)
        return self._event("error", code=error.code, message=error.message, param=None)

    def _begin(self) -> Iterator[bytes]:
        yield self._event("response.created", response=self._empty(QUEUED if self._followed else IN_PROGRESS))
        if self._followed:
            yield self._event("response.queued", response=self._empty(QUEUED))

    def _run(self) -> Iterator[bytes]:
        if self._is_running:
            return
        self._is_running = True
        if not self.has_begun:
            yield from self._begin()
        yield self._event("response.in_progress", response=self._empty(IN_PROGRESS))

    def _take(self, part: Chunk) -> Iterator[bytes]:
        yield from self._run()
        if part.reasoning:
            yield from self._say(REASONING, part.reasoning)
        if part.text or part.logprobs:
            yield from self._say(MESSAGE, part.text, part.logprobs)
        for piece in part.calls:
            yield from self._call(piece)

    def _end(self, generation: Generation, content: Content) -> Iterator[bytes]:
        yield from self._run()
        status = status_of(generation)
        if not self._items and status in (COMPLETED, INCOMPLETE):
            yield from self._open(MESSAGE)
        for item in self._items:
            if self._followed and item.kind == MESSAGE:
                item.logprobs = list((content.more or {}).get("logprobs", ()))
            yield from self._close(item, item_status(status))
        output = [item.shown(item_status(status)) for item in self._items]
        name = f"response.{status if status in (COMPLETED, FAILED) else INCOMPLETE}"
        yield self._event(name, response=shown(generation, content, output=output))

    def _say(self, kind: str, text: str, logprobs: Sequence[Json] = ()) -> Iterator[bytes]:
        item = next((each for each in self._items if each.is_open and each.kind == kind), None)
        if item is None:
            yield from self._end_of_texts()
            yield from self._open(kind)
            item = self._items[-1]
        item.logprobs += logprobs
        if kind == MESSAGE:
            said = {"content_index": 0, "logprobs": shown_logprobs(logprobs)}
            yield self._delta("response.output_text.delta", item, text, **said)
        else:
            yield self._delta("response.reasoning_summary_text.delta", item, text, summary_index=0)

    def _call(self, piece: CallPiece) -> Iterator[bytes]:
        item = next((each for each in self._items if each.kind == CALL and each.call[0] == piece.index), None)
        if item is None:
            yield from self._end_of_texts()
            yield from self._open(CALL, (piece.index, piece.id, piece.name))
            item = self._items[-1]
        if piece.arguments:
            yield self._delta("response.function_call_arguments.delta", item, piece.arguments)

    def _end_of_texts(self) -> Iterator[bytes]:
        """Texts end where something else begins; calls may come beside each other, and end with the answer."""
        for item in self._items:
            if item.kind != CALL:
                yield from self._close(item, COMPLETED)

    def _open(self, kind: str, call: tuple[int, str, str] = (0, "", "")) -> Iterator[bytes]:
        place = len(self._items)
        item = Item(kind, place, item_id(PREFIXES[kind], self._generation, place), call)
        self._items.append(item)
        yield self._event("response.output_item.added", output_index=place, item=item.begun())
        if kind == MESSAGE:
            yield self._of("response.content_part.added", item, content_index=0, part=text_part("", ()))
        elif kind == REASONING:
            yield self._of("response.reasoning_summary_part.added", item, summary_index=0, part=summary_part(""))

    def _close(self, item: Item, status: str) -> Iterator[bytes]:
        if not item.is_open:
            return
        item.is_open = False
        text = item.text
        if item.kind == MESSAGE:
            part = text_part(text, item.logprobs)
            said = {"content_index": 0, "text": text, "logprobs": part["logprobs"]}
            yield self._of("response.output_text.done", item, **said)
            yield self._of("response.content_part.done", item, content_index=0, part=part)
        elif item.kind == REASONING:
            yield self._of("response.reasoning_summary_text.done", item, summary_index=0, text=text)
            yield self._of("response.reasoning_summary_part.done", item, summary_index=0, part=summary_part(text))
        else:
            yield self._of("response.function_call_arguments.done", item, arguments=text)
        yield self._event("response.output_item.done", output_index=item.place, item=item.shown(status))

    def _delta(self, name: str, item: Item, text: str, **said: Any) -> bytes:
        item.texts.append(text)
        if self._followed:
            known = max(0, self._after - self._number)
            self._number += len(text) - 1
            text = text[known:]
        return self._of(name, item, **said, delta=text)

    def _of(self, name: str, item: Item, **said: Any) -> bytes:
        return self._event(name, item_id=item.id, output_index=item.place, **said)

    def _event(self, name: str, **said: Any) -> bytes:
        self._number += 1
        if self._number <= self._after:
            return b""
        return event(name, {"type": name, "sequence_number": self._number, **said})

    def _empty(self, status: str) -> dict[str, Any]:
        return shown(self._generation, self._content, output=[], status=status)


async def told(generations: Generations, begun: Begun, events: Events) -> AsyncGenerator[bytes, None]:
    """A response that this request runs; a repeat is told from its record.

    Nothing is told before the first piece, so that what fails before it is answered with its status.
    """
    if begun.live is None:
        for part in again(begun.generation, begun.content):
            yield events.take(part)
    else:
        try:
            async with aclosing(generations.stream(begun)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    for part in chunk.parts():
                        if data := events.take(part):
                            yield data
        except LoquentError:
            if not events.has_begun or not begun.now()[0].is_over:
                raise
    yield events.end(*begun.now())


async def followed(generations: Generations, who: Principal, id: str, events: Events) -> AsyncGenerator[bytes, None]:
    """A response that runs in the background, to its end; what is not text comes with the end."""
    if data := events.begin():
        yield data
    async with aclosing(generations.follow(who, id)) as seen:  # type: ignore[type-var]
        async for each in seen:
            if data := _seen(each, events):
                yield data


def _seen(seen: Event, events: Events) -> bytes:
    if seen.kind == "restart":
        raise Unavailable("the response was begun anew; follow it again from its start", retry_after=1)
    if seen.kind == "delta":
        return events.take(Chunk(seen.text))
    if seen.generation is not None and seen.content is not None:
        rest = [part for part in again(seen.generation, seen.content) if part.reasoning or part.calls]
        return b"".join(map(events.take, rest)) + events.end(seen.generation, seen.content)
    return QUIET if seen.kind == "quiet" else b""
