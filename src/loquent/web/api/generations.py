"""Generations: ask a model at once, as a stream or as a job; and look after what was asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Annotated, Any, Literal, Self

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator

from loquent.domain.clock import Moment, from_iso, iso
from loquent.domain.errors import Invalid, LoquentError
from loquent.domain.generations import Content, Generation, Json
from loquent.domain.requests import Parameters
from loquent.services.generations import Begun, Generations, Wanted
from loquent.services.history import Filters, Listed
from loquent.web.api.messages import ChatMessage, ToolName, stored_messages
from loquent.web.body import HungUp, Wire
from loquent.web.deps import Ours, StrictRoute, Who
from loquent.web.direct import Call, Direct
from loquent.web.errors import Headers, problem, rate_headers
from loquent.web.kept import kept
from loquent.web.messages import LONGEST, MOST_TOOLS, Function, stored_tools
from loquent.web.quick import quickly
from loquent.web.sse import EventStream, Watch, event
from loquent.wiring import Services

router = APIRouter(prefix="/api/v1/generations", tags=["generations"], route_class=StrictRoute)
TURN = ("session", "turn", "turns_left_out")  # of a chat; said only where there is something to say
COUNTED_APART = ("cached_tokens", "reasoning_tokens")  # of the usage, where the engine does
Show = Callable[[Generation, Content], dict[str, Any]]
EVENT_ID = re.compile(
    "([0-9]{1,12})(?:-([0-9]{1,9}))?"
)  # characters of the output; of which attempt, but for the first
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


class Asked(Wire):
    """What goes with everything that a model is asked: which one, and how it is to answer."""

    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    response_format: dict[str, Any] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None  # of each token, and so many others in its place
    reasoning_effort: Annotated[str, Field(pattern="^[a-z]{1,20}$")] | None = None
    stream: bool = False

    def parameters(self) -> Parameters:
        """Those that were asked for."""
        return Parameters(
            self.max_tokens,
            self.temperature,
            self.top_p,
            self.seed,
            (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            self.response_format,
            self.logprobs,
            self.reasoning_effort,
        )


class AskedNowOrLater(Asked):
    """The same where it may be a job."""

    background: bool = False

    @model_validator(mode="after")
    def _is_now_or_later(self) -> Self:
        if self.stream and self.background:
            raise ValueError("a job is not streamed by its POST; follow its events instead")
        return self


@quickly
class NewGeneration(AskedNowOrLater):
    """What a model is asked: a prompt that it goes on from, or messages that it answers."""

    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST)] | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2_000)] | None = None
    tools: Annotated[list[Function], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolName | None = None
    parallel_calls: bool | None = None
    cache: bool | None = None  # whether a kept answer will do; left out: where it would come out the same

    @model_validator(mode="after")
    def _is_one_of_each(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either a prompt or messages")
        return self

    def stored(self) -> Json:
        """The input of the generation. Raises Invalid or TooLarge."""
        asked: Json = {"prompt": self.prompt} if self.messages is None else {"messages": stored_messages(self.messages)}
        return {**asked, **self._tools()} if self.tools or self.tool_choice else asked

    def _tools(self) -> Json:
        choice = self.tool_choice
        name, said = (choice.name, None) if isinstance(choice, ToolName) else ("", choice)
        tools = [each.model_dump() for each in self.tools or ()]
        return stored_tools(tools, choice=said, tool=name, parallel=self.parallel_calls)


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


@router.post("/{id}/cancel", summary="End one early")
async def cancel_generation(ours: Ours, who: Who, id: str) -> Response:
    """What there is of it is kept. One that is over stays as it is."""
    return json_answer(shown(*await ours.generations.cancel(who, id)))


@router.delete("/{id}", status_code=204, summary="Erase one with its texts")
async def delete_generation(ours: Ours, who: Who, id: str) -> Response:
    """409 while it runs: cancel it first."""
    await ours.generations.remove(who, id)
    return Response(status_code=204)


class StreamAnswer(Response):
    """An EventStream that a FastAPI route may return."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        with suppress(HungUp):  # the framework would take it for a fault
            await self._stream(scope, receive, send)


class WholeAnswer(Response):
    """What a FastAPI route returns for a generation that runs while its caller waits: who hangs up ends it."""

    def __init__(self, generations: Generations, begun: Begun, show: Show) -> None:
        super().__init__()
        self._generations = generations
        self._begun = begun
        self._show = show

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        with suppress(HungUp):  # as above
            with Watch(scope, receive, wheel=scope["loquent.wheel"]):
                await self._generations.collect(self._begun)
            answer = json_answer(self._show(*self._begun.now()), headers=headers_of(self._begun))
            await answer(scope, receive, send)


def shown(generation: Generation, content: Content) -> dict[str, Any]:
    """A generation on our wire, with its texts."""
    return {
        "id": generation.id,
        "object": "generation",
        "kind": generation.kind,
        "status": generation.status,
        "model": generation.model,
        "input": content.input,
        "output": content.output,
        **(content.more or {}),
        "finish_reason": generation.finish_reason,
        **({"sources": content.sources} if content.sources else {}),
        **common(generation),
    }


def listed(generation: Generation) -> dict[str, Any]:
    """A generation in a list: the beginnings of its texts only."""
    return {
        "id": generation.id,
        "object": "generation",
        "kind": generation.kind,
        "status": generation.status,
        "model": generation.model,
        "input_preview": generation.input_preview,
        "output_preview": generation.output_preview,
        "finish_reason": generation.finish_reason,
        **common(generation),
    }


def encode(generation: Generation, content: Content) -> bytes:
    """The same as bytes."""
    return msgspec.json.encode(shown(generation, content))


def json_answer(body: Any, *, status: int = 200, headers: Headers | None = None) -> Response:
    """An answer in JSON."""
    answer = Response(msgspec.json.encode(body), status, media_type="application/json")
    answer.raw_headers.extend(headers or [])
    return answer


def list_answer(found: Listed, show: Callable[[Generation], dict[str, Any]]) -> Response:
    """A page of generations. ``last_id`` is where to go on from: behind all that was looked at."""
    return listing([show(each) for each in found.items], more=found.more, last=found.last if found.more else None)


def listing(rows: list[dict[str, Any]], *, more: bool = False, last: str | None = None) -> Response:
    """A list on our wire. ``last``: where to go on from, where that is not behind the last of the rows."""
    ends = {"first_id": rows[0]["id"] if rows else None, "last_id": last or (rows[-1]["id"] if rows else None)}
    return json_answer({"object": "list", "data": rows, **ends, "has_more": more})


def moment(name: str, text: str | None) -> Moment | None:
    """A time in a query, at or after the beginning of time. Raises Invalid."""
    try:
        return max(Moment(0), from_iso(text)) if text else None
    except (ValueError, OverflowError):
        raise Invalid(f"{name}: a time in ISO 8601, like 2026-01-31T12:00:00Z", field=name) from None


def common(generation: Generation) -> dict[str, Any]:
    """What a generation shows of itself wherever it stands."""
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    details = generation.details or {}
    usage = None
    if prompt is not None and completion is not None:
        total = prompt + completion
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
        usage |= {"estimated": generation.usage_estimated}
        usage |= {name: known for name in COUNTED_APART if (known := details.get(name))}
    failed = generation.error_code is not None
    return {
        "usage": usage,
        **{name: value for name in TURN if (value := getattr(generation, name)) is not None},
        "cost": generation.cost,
        "answered_by": generation.answered_by,
        **({"tries": details["tries"]} if "tries" in details else {}),
        **({"cached": details["cache"]["hit"]} if "cache" in details else {}),
        "error": {"code": generation.error_code, "message": generation.error_message} if failed else None,
        "progress": {"done": generation.steps_done, "of": generation.steps} if generation.steps else None,
        "parameters": generation.parameters,
        "surface": generation.surface,
        "background": generation.mode == "background",
        "attempts": generation.attempts,
        "created_at": iso(generation.created_at),
        "started_at": iso(generation.started_at) if generation.started_at else None,
        "completed_at": iso(generation.completed_at) if generation.completed_at else None,
    }


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


def place_of(begun: Begun) -> tuple[bytes, bytes]:
    """The header that says where a job is looked at."""
    return b"location", f"/api/v1/generations/{begun.generation.id}".encode()


def headers_of(begun: Begun) -> Headers:
    """What the answer says of a generation beside its body: its id, the caller's rate, whether it is a repeat."""
    headers = [*rate_headers(begun.limit), (b"x-loquent-generation", begun.generation.id.encode()), *kept(begun)]
    return [*headers, (b"idempotent-replayed", b"true")] if begun.replayed else headers


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
