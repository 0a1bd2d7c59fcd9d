"""A generation as events on our wire: run by its request, or followed; and in which form a caller is answered."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response

from loquent.domain.errors import Invalid, LoquentError
from loquent.services.generations import Generations
from loquent.services.wanted import Begun
from loquent.web.answers import Show, StreamAnswer, WholeAnswer, headers_of, json_answer, place_of
from loquent.web.api.shown import shown
from loquent.web.deps import Ours, Who
from loquent.web.errors import problem
from loquent.web.sse import EventStream, event
from loquent.wiring import Services

EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
EVENT_ID = re.compile("([0-9]{1,12})(?:-([0-9]{1,9}))?")  # characters of the output; which attempt, but for the first


def answer_of(
    request: Request, ours: Services, begun: Begun, show: Show = shown, *, streamed: bool, background: bool = False
) -> Response:
    """What a FastAPI route answers with for what it has begun: where the job is, a stream, or the whole of it."""
    if background:
        return json_answer(show(*begun.now()), status=202, headers=[place_of(begun), *headers_of(begun)])
    if streamed:
        return StreamAnswer(stream_of(ours.generations, begun, show, request.scope["loquent.request_id"]))
    return WholeAnswer(ours.generations, begun, show)


def stream_of(generations: Generations, begun: Begun, show: Show, request_id: str) -> EventStream:
    """A generation that its request runs, as events: delta, then done with the whole of it, or error."""
    return EventStream(
        _events(generations, begun, show),
        dress=lambda error: problem(error, request_id),
        last=lambda error: _last(error, request_id),
        headers=lambda: headers_of(begun),
    )


async def follow(request: Request, ours: Ours, who: Who, id: str) -> Response:
    """One's own generation to its end, from behind the event that Last-Event-ID names. Raises Invalid or NotFound."""
    seen = EVENT_ID.fullmatch(request.headers.get("last-event-id", "0"))
    if seen is None:
        raise Invalid("Last-Event-ID is the id of an event", field="Last-Event-ID")
    await ours.generations.get(who, id)
    request_id: str = request.scope["loquent.request_id"]
    return StreamAnswer(
        EventStream(
            _followed(ours, who, id, int(seen[1]), int(seen[2] or 1)),
            dress=lambda error: problem(error, request_id),
            last=lambda error: _last(error, request_id),
        )
    )


async def _events(generations: Generations, begun: Begun, show: Show) -> AsyncGenerator[bytes, None]:
    """A generation that this request runs, as events; a repeat is told from its record."""
    seen = 0
    if begun.live is None:
        seen = len(begun.content.output)
        yield event("delta", {"text": begun.content.output}, id=seen)
    else:
        async with aclosing(generations.stream(begun)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                text = "".join(part.text for part in chunk.parts())
                if text:
                    seen += len(text)
                    yield event("delta", {"text": text}, id=seen)
    yield event("done", show(*begun.now()), id=seen)


async def _followed(ours: Ours, who: Who, id: str, offset: int, attempt: int) -> AsyncGenerator[bytes, None]:
    async for each in ours.generations.follow(who, id, offset, attempt=attempt):
        mark = f"{each.offset}-{each.attempt}" if each.attempt > 1 and each.offset else each.offset
        if each.kind == "delta":
            yield event("delta", {"text": each.text}, id=mark)
        elif each.kind == "progress":
            yield event("progress", {"done": each.steps_done, "of": each.steps}, id=mark)
        elif each.kind == "restart":
            yield event("restart", {}, id=mark)
        elif each.kind == "quiet":
            yield b": still here\n\n"
        elif each.generation is not None and each.content is not None:
            yield event("done", shown(each.generation, each.content), id=mark)


def _last(error: LoquentError, request_id: str) -> bytes:
    return b"event: error\ndata: %s\n\n" % problem(error, request_id)[2]
