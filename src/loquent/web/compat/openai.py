"""OpenAI's surface, /v1: models, chat completions and completions, for the official SDKs and their like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Response

from loquent.domain.errors import ContextOverflow, Invalid, LoquentError, NotFound
from loquent.domain.generations import Json
from loquent.domain.models import Model
from loquent.domain.principals import Principal
from loquent.services.wanted import Begun, Wanted
from loquent.web.answers import headers_of, json_answer
from loquent.web.compat.openai_ask import ChatCompletion, Common, TextCompletion
from loquent.web.compat.openai_wire import DONE, again, chunk, end, head, head_of, is_said, whole
from loquent.web.deps import Ours, StrictRoute, WhoByAnyKey
from loquent.web.direct import Call, Direct, address, any_key
from loquent.web.errors import Dressed, about, status
from loquent.web.kept import wish
from loquent.web.sse import EventStream

router = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
OVERFLOW = "Input tokens exceed the configured limit (context_length_exceeded)"
"""Clients know it by these words: LangChain, LiteLLM and CrewAI, which may see nothing of an error but its message."""
DIALECTS = {"chat": "chat", "text": "completion"}  # what a chunk's bytes must speak to go on as they came


async def chat_completions(call: Call) -> None:
    """Answer messages, whole or as a stream of chunks; or ask for calls of the `tools` on offer.

    Pictures come as data URLs of PNG, JPEG, WebP or GIF: no address is fetched.
    """
    who = caller(call)
    body = await call.body(ChatCompletion)
    stored = await asyncio.to_thread(body.stored) if call.is_large else body.stored()
    await _answer(call, who, body, kind="chat", stored=stored)


async def completions(call: Call) -> None:
    """Go on from a prompt, whole or as a stream of chunks."""
    who = caller(call)
    body = await call.body(TextCompletion)
    await _answer(call, who, body, kind="text", stored=body.stored())


ANSWERS = {
    "200": "The completion, or a stream of chunks that ends with [DONE]",
    "400": "What was asked cannot be done as asked",
    "401": "No good API key",
    "404": "There is no such model",
    "413": "The body is too large: see LOQUENT_MAX_BODY, and LOQUENT_MAX_UPLOAD for one with pictures",
    "429": "Over the rate",
}
CHAT = Direct(
    path="/v1/chat/completions",
    handler=chat_completions,
    body=ChatCompletion,
    summary="Chat completion",
    tags=("openai",),
    answers=ANSWERS,
    takes_pictures=True,
)
COMPLETION = Direct("/v1/completions", completions, TextCompletion, "Completion", ("openai",), ANSWERS)


@router.get("/models", summary="List the models")
async def list_models(ours: Ours, who: WhoByAnyKey) -> Response:
    """All that this caller may name."""
    return json_answer({"object": "list", "data": [_model(row) for row in ours.models.rows(who)]})


@router.get("/models/{name:path}", summary="Get a model")
async def get_model(ours: Ours, who: WhoByAnyKey, name: str) -> Response:
    """One of them; one that this caller may not use is not there."""
    return json_answer(_model(ours.models.offer(name, who).model))


def dress(error: LoquentError, request_id: str) -> Dressed:
    """An error as OpenAI says it."""
    code = status(error)
    if code == 422:
        code = 400
    word = {
        "message": error.message,
        "type": TYPES.get(code, "invalid_request_error" if code < 500 else "server_error"),
        "param": error.field.partition(".")[0] or None if isinstance(error, Invalid) else None,
        "code": CODES.get(code, error.code),
    }
    if isinstance(error, NotFound) and "model" in error.message:
        word |= {"param": "model", "code": "model_not_found"}
    if isinstance(error, ContextOverflow):
        word["message"] = f"{OVERFLOW}: {error.message}"
    return code, [(b"content-type", b"application/json"), *about(error)], msgspec.json.encode({"error": word})


def caller(call: Call) -> Principal:
    """Who asks: clients insist on some key. Raises Unauthenticated."""
    return any_key(call.services, call.headers.get(b"authorization"), address(call.scope))


async def _answer(call: Call, who: Principal, body: Common, *, kind: str, stored: Json) -> None:
    """Both calls: one generation, shown whole or in chunks."""
    wanted = Wanted(
        kind=kind,
        surface="openai",
        input=stored,
        text=stored["prompt"] if kind == "text" else stored["messages"][-1]["content"],
        model=body.model,
        parameters=body.parameters(),
        streamed=bool(body.stream),
        key=call.key(),
        cache=wish(call.headers.get(b"x-loquent-cache")),
    )
    generations = call.services.generations
    begun = await generations.begin(who, wanted)
    if body.stream:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        stream = EventStream(
            _chunks(call, begun, kind, with_usage=with_usage),
            dress=lambda error: dress(error, call.request_id),
            last=lambda error: b"data: %s\n\n" % dress(error, call.request_id)[2],
            headers=lambda: headers_of(begun),
        )
        await stream(call.scope, call.receive, call.send)
        return
    if begun.live is not None:
        with call.watch():
            await generations.collect(begun)
    generation, content = begun.now()
    await call.reply(msgspec.json.encode(whole(generation, content, kind)), headers=headers_of(begun))


async def _chunks(call: Call, begun: Begun, kind: str, *, with_usage: bool) -> AsyncGenerator[bytes, None]:
    """The chunks; bytes that speak this wire already go on as they came."""
    begins = head(begun.generation, kind, chunk=True)
    first = True
    if begun.live is None:
        for part in again(begun.generation, begun.content):
            yield chunk(begins, part, kind, first=first)
            first = False
    else:
        async with aclosing(call.services.generations.stream(begun)) as chunks:  # type: ignore[type-var]
            async for piece in chunks:
                if piece.wire and piece.dialect == DIALECTS[kind]:
                    if first:
                        begins = head_of(piece.wire, begins)
                    first = False
                    yield piece.wire
                    continue
                for part in piece.parts():
                    if part.text or is_said(part):
                        yield chunk(begins, part, kind, first=first)
                        first = False
    if with_usage:
        generation, _ = begun.now()
        yield end(begins, generation)
    yield DONE


def _model(row: Model) -> dict[str, Any]:
    return {"id": row.name, "object": "model", "created": 1_767_225_600, "owned_by": row.engine}
