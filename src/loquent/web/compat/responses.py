"""OpenAI's responses, /v1/responses: made now, as a stream or in the background; looked at, cancelled and erased."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response

from loquent.domain.errors import Conflict, Invalid, NotFound
from loquent.domain.generations import BACKGROUND, Content, Generation
from loquent.domain.principals import Principal
from loquent.services.generations import Generations
from loquent.web.answers import StreamAnswer, headers_of, json_answer
from loquent.web.compat.openai import caller, dress
from loquent.web.compat.responses_ask import NewResponse, earlier, wanted
from loquent.web.compat.responses_events import Events, followed, told
from loquent.web.compat.responses_items import Stored
from loquent.web.compat.responses_wire import input_items, own_id, shown, wire_id
from loquent.web.deps import Ours, StrictRoute, WhoByAnyKey
from loquent.web.direct import Call, Direct
from loquent.web.sse import EventStream

router = APIRouter(prefix="/v1/responses", tags=["openai"], route_class=StrictRoute)
NOWHERE, NOT_STORED = "there is no such response", {"store": False}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The response, or its events",
        "content": {"application/json": {"schema": {}}, "text/event-stream": {"schema": {"type": "string"}}},
    }
}


async def create_response(call: Call) -> None:
    """Ask a model for a response. At once by default; `stream` sends typed events; `background` makes a job.

    `previous_response_id` puts an earlier response and what it was asked before this input. Tools are functions that
    the caller runs. With `store: false` a response can neither be retrieved nor gone on from here; like everything
    else it stands in its owner's history until it is erased there.
    """
    who = caller(call)
    body = await call.body(NewResponse)
    generations = call.services.generations
    wish = wanted(body, await _before(generations, who, body.previous_response_id), call.key())
    begun = await (generations.submit if body.background else generations.begin)(who, wish)
    if body.stream:
        events = Events(*begun.now(), followed=bool(body.background))
        pieces = (
            followed(generations, who, begun.generation.id, events)
            if body.background
            else told(generations, begun, events)
        )
        stream = EventStream(
            pieces,
            dress=lambda error: dress(error, call.request_id),
            last=lambda error: events.fault(error, begun),
            headers=headers_of(begun),
        )
        await stream(call.scope, call.receive, call.send)
        return
    if begun.live is not None:
        with call.watch():
            await generations.collect(begun)
    await call.reply(msgspec.json.encode(shown(*begun.now())), headers=headers_of(begun))


CREATE = Direct(
    path="/v1/responses",
    handler=create_response,
    body=NewResponse,
    summary="Create a response",
    tags=("openai",),
    answers={
        "200": "The response, or a stream of events",
        "400": "What was asked cannot be done as asked",
        "401": "No good API key",
        "404": "There is no such model, or no such previous response",
        "409": "The previous response is not over, or the first request with this Idempotency-Key is not",
        "413": "The body is too large: see LOQUENT_MAX_BODY, and LOQUENT_MAX_UPLOAD for one with pictures",
        "429": "Over the rate; Retry-After tells when to come again",
        "503": "The model is loading or away",
    },
    takes_pictures=True,
)


@router.get("/{id}", summary="Get a response", response_class=Response, responses=EVENTS)
async def get_response(
    request: Request,
    ours: Ours,
    who: WhoByAnyKey,
    id: str,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=0, le=2**53)] = None,
) -> Response:
    """One's own. `stream` follows one that was made in the background, from behind the event `starting_after`."""
    if starting_after is not None and not stream:
        raise Invalid("starting_after goes with stream=true", field="starting_after")
    generation, content = await _stored(ours.generations, who, id)
    if not stream:
        return json_answer(shown(generation, content))
    if generation.mode != BACKGROUND:
        raise Invalid("stream: only what was made with background: true can be followed", field="stream")
    events = Events(generation, content, followed=True, after=-1 if starting_after is None else starting_after)
    pieces = followed(ours.generations, who, generation.id, events)
    request_id: str = request.scope["loquent.request_id"]
    return StreamAnswer(EventStream(pieces, dress=lambda error: dress(error, request_id), last=events.fault))


@router.post("/{id}/cancel", summary="Cancel a response")
async def cancel_response(ours: Ours, who: WhoByAnyKey, id: str) -> Response:
    """One that was made in the background: what there is of it is kept. One that is over stays as it is."""
    generation, _ = await _stored(ours.generations, who, id)
    if generation.mode != BACKGROUND:
        raise Invalid("only a response that was made with background: true can be cancelled: hang up instead")
    return json_answer(shown(*await ours.generations.cancel(who, generation.id)))


@router.delete("/{id}", summary="Erase a response")
async def delete_response(ours: Ours, who: WhoByAnyKey, id: str) -> Response:
    """409 while it runs: cancel it first. Responses that went on from it keep what they took over."""
    generation, _ = await _stored(ours.generations, who, id)
    await ours.generations.remove(who, generation.id)
    return json_answer({"id": wire_id(generation.id), "object": "response", "deleted": True})


@router.get("/{id}/input_items", summary="List what a response was asked")
async def list_input_items(
    ours: Ours,
    who: WhoByAnyKey,
    id: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern="^(msg|fc|fco)_[0-9a-f]{32}in[0-9a-f]{4}$")] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """All that went into it but its instructions, with what came before in its chain."""
    items = input_items(*await _stored(ours.generations, who, id))
    if order == "desc":
        items.reverse()
    ids = [each["id"] for each in items]
    if after is not None and after not in ids:
        raise Invalid("after: there is no such item", field="after")
    start = ids.index(after) + 1 if after is not None else 0
    rows = items[start : start + limit]
    ends = {"first_id": rows[0]["id"] if rows else "", "last_id": rows[-1]["id"] if rows else ""}
    return json_answer({"object": "list", "data": rows, **ends, "has_more": start + limit < len(items)})


async def _before(generations: Generations, who: Principal, previous: str | None) -> list[Stored]:
    """What a new response goes on from. Raises NotFound, and Conflict where that is not over."""
    if previous is None:
        return []
    generation, content = await _stored(generations, who, previous)
    if not generation.is_over:
        raise Conflict("the previous response is not over")
    return earlier(generation, content)


async def _stored(generations: Generations, who: Principal, wire: str) -> tuple[Generation, Content]:
    """One's own response. Raises NotFound, also where it is a generation of another kind or was not to be stored."""
    try:
        generation, content = await generations.get(who, own_id(wire))
    except NotFound:
        raise NotFound(NOWHERE) from None
    if content.input.get("response", NOT_STORED).get("store") is False:
        raise NotFound(NOWHERE)
    return generation, content
