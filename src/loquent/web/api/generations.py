"""Generations: ask a model at once, as a stream or as a job; and look after what was asked."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from loquent.domain.generations import Json
from loquent.services.history import Filters
from loquent.services.wanted import Wanted
from loquent.web.answers import headers_of, json_answer, place_of
from loquent.web.api.asked import NewGeneration, moment
from loquent.web.api.events import EVENTS, follow, stream_of
from loquent.web.api.shown import encode, list_answer, listed, shown
from loquent.web.deps import Ours, StrictRoute, Who
from loquent.web.direct import Call, Direct

router = APIRouter(prefix="/api/v1/generations", tags=["generations"], route_class=StrictRoute)


async def create_generation(call: Call) -> None:
    """Ask a model. At once by default; `stream` sends events (delta, then done or error); `background` makes a job.

    A prompt alone is put to a chat model as one message. Where `tools` are offered, the answer may ask for `calls`;
    their results come back as messages of the role `tool` with their `call_id`. What the model thought aloud is in
    `reasoning`. A stream has the text alone in its deltas: calls, reasoning and logprobs stand in its `done`. Pictures
    come as data URLs of PNG, JPEG, WebP or GIF. Send an Idempotency-Key to make repeats safe for 24 hours.
    """
    who = call.who()
    body = await call.body(NewGeneration)
    stored = await asyncio.to_thread(body.stored) if call.is_large else body.stored()
    wanted = _wanted(body, stored, call)
    generations = call.services.generations
    if body.background:
        begun = await generations.submit(who, wanted)
        await call.reply(encode(*begun.now()), status=202, headers=[place_of(begun), *headers_of(begun)])
        return
    begun = await generations.begin(who, wanted)
    if body.stream:
        await stream_of(generations, begun, shown, call.request_id)(call.scope, call.receive, call.send)
        return
    if begun.live is not None:
        with call.watch():
            await generations.collect(begun)
    await call.reply(encode(*begun.now()), headers=headers_of(begun))


CREATE = Direct(
    path="/api/v1/generations",
    handler=create_generation,
    body=NewGeneration,
    summary="Ask a model",
    tags=("generations",),
    answers={
        "200": "The generation, or a stream of events",
        "202": "Accepted as a job; Location tells where it is",
        "409": "The first request with this Idempotency-Key is still being worked on",
        "413": "The body is too large: see LOQUENT_MAX_BODY, and LOQUENT_MAX_UPLOAD for one with pictures",
        "422": "What was asked cannot be done as asked",
        "429": "Over the rate; Retry-After tells when to come again",
        "503": "The model is loading or away",
    },
    takes_pictures=True,
)


@router.get("", summary="List one's own, newest first")
async def list_generations(
    ours: Ours,
    who: Who,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern="^gen_[0-9a-f]{32}$")] = None,
    kind: Literal["text", "chat", "summary", "document", "image", "embedding"] | None = None,
    status: Literal["pending", "processing", "completed", "failed", "cancelled"] | None = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
    created_after: Annotated[str | None, Query(max_length=40, description="ISO 8601")] = None,
    created_before: Annotated[str | None, Query(max_length=40, description="ISO 8601")] = None,
) -> Response:
    """A page, from behind the id `after`. Where `has_more` is true, go on from behind `last_id`.

    A narrow list is looked for in steps: a page may be short, even empty, though there is more.
    """
    since, until = moment("created_after", created_after), moment("created_before", created_before)
    filters = Filters(kind, status, model, since, until)
    return list_answer(await ours.generations.page(who, filters, limit=limit, after=after), listed)


@router.get("/{id}", summary="Get one, with its texts")
async def get_generation(ours: Ours, who: Who, id: str) -> Response:
    """One's own; another's is not found."""
    return json_answer(shown(*await ours.generations.get(who, id)))


@router.get("/{id}/events", summary="Follow one to its end", response_class=Response, responses=EVENTS)
async def follow_generation(request: Request, ours: Ours, who: Who, id: str) -> Response:
    """Events: delta, progress, restart, then done. Last-Event-ID goes on behind that event, at any replica."""
    return await follow(request, ours, who, id)


@router.post("/{id}/cancel", summary="End one early")
async def cancel_generation(ours: Ours, who: Who, id: str) -> Response:
    """What there is of it is kept. One that is over stays as it is."""
    return json_answer(shown(*await ours.generations.cancel(who, id)))


@router.delete("/{id}", status_code=204, summary="Erase one with its texts")
async def delete_generation(ours: Ours, who: Who, id: str) -> Response:
    """409 while it runs: cancel it first."""
    await ours.generations.remove(who, id)
    return Response(status_code=204)


def _wanted(body: NewGeneration, stored: Json, call: Call) -> Wanted:
    text = body.prompt if body.prompt is not None else stored["messages"][-1]["content"]
    return Wanted(
        kind="text" if body.messages is None else "chat",
        surface="api",
        input=stored,
        text=text,
        model=body.model,
        parameters=body.parameters(),
        streamed=body.stream,
        key=call.key(),
        cache=body.cache,
    )
