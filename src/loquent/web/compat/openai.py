"""OpenAI's surface, /v1: models, chat completions and completions, for the official SDKs and their like."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Response
from pydantic import Field

from loquent.domain.clock import SECOND
from loquent.domain.errors import Invalid, LoquentError, NotFound
from loquent.domain.generations import Generation, Json
from loquent.domain.models import Model
from loquent.domain.principals import Principal
from loquent.domain.requests import Parameters
from loquent.ports.engine import Chunk
from loquent.services.generations import Begun, Wanted
from loquent.web.api.generations import json_answer
from loquent.web.body import Wire
from loquent.web.deps import Ours, StrictRoute, WhoByAnyKey
from loquent.web.direct import Call, Direct, address, any_key
from loquent.web.errors import Dressed, about, rate_headers, status
from loquent.web.sse import EventStream

router = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)
DONE = b"data: [DONE]\n\n"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
REASONS = ("stop", "length")  # the wire has no word for an answer that was cut short on purpose
DIALECTS = {"chat": "chat", "text": "completion"}  # what a chunk's bytes must speak to go on as they came
LONGEST = 1_000_000


class Part(Wire):
    """A piece of a message's content: text."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=LONGEST)]


class OpenAIMessage(Wire):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=LONGEST)] | Annotated[list[Part], Field(min_length=1, max_length=1_000)]
    name: str | None = None
    refusal: None = None


class StreamOptions(Wire):
    """What a stream carries beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Common(Wire):
    """What both calls take. What changes nothing here is taken and left; what would is refused."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None


class ChatCompletion(Common):
    """The body of a chat completion."""

    messages: Annotated[list[OpenAIMessage], Field(min_length=1, max_length=2_000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    verbosity: str | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None


class TextCompletion(Common):
    """The body of a completion."""

    prompt: Annotated[str, Field(max_length=LONGEST)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None


async def chat_completions(call: Call) -> None:
    """Answer messages, whole or as a stream of chunks."""
    who = _who(call)
    body = await call.body(ChatCompletion)
    messages = [{"role": _role(each.role), "content": _text(each)} for each in body.messages]
    most = body.max_completion_tokens or body.max_tokens
    await _answer(call, who, body, kind="chat", stored={"messages": messages}, most=most, form=body.response_format)


async def completions(call: Call) -> None:
    """Go on from a prompt, whole or as a stream of chunks."""
    who = _who(call)
    body = await call.body(TextCompletion)
    prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    await _answer(call, who, body, kind="text", stored={"prompt": prompt, "plain": True}, most=body.max_tokens)


ANSWERS = {
    "200": "The completion, or a stream of chunks that ends with [DONE]",
    "400": "What was asked cannot be done as asked",
    "401": "No good API key",
    "404": "There is no such model",
    "429": "Over the rate",
}
CHAT = Direct("/v1/chat/completions", chat_completions, ChatCompletion, "Chat completion", ("openai",), ANSWERS)
COMPLETION = Direct("/v1/completions", completions, TextCompletion, "Completion", ("openai",), ANSWERS)


@router.get("/models", summary="List the models")
async def list_models(ours: Ours, who: WhoByAnyKey) -> Response:
    """All that a caller may name."""
    return json_answer({"object": "list", "data": [_model(row) for row in ours.models.rows()]})


@router.get("/models/{name:path}", summary="Get a model")
async def get_model(ours: Ours, who: WhoByAnyKey, name: str) -> Response:
    """One of them."""
    return json_answer(_model(ours.models.offer(name).model))


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
    return code, [(b"content-type", b"application/json"), *about(error)], msgspec.json.encode({"error": word})


async def _answer(
    call: Call, who: Principal, body: Common, *, kind: str, stored: Json, most: int | None, form: Json | None = None
) -> None:
    """Both calls: one generation, shown whole or in chunks."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    seed = None if body.seed is None else body.seed % 2**31
    wanted = Wanted(
        kind=kind,
        surface="openai",
        input=stored,
        text=stored["prompt"] if kind == "text" else stored["messages"][-1]["content"],
        model=body.model,
        parameters=Parameters(most, body.temperature, body.top_p, seed, stop, form),
        streamed=bool(body.stream),
        key=call.key(),
    )
    generations = call.services.generations
    begun = await generations.begin(who, wanted)
    headers = [*rate_headers(begun.limit), (b"x-loquent-generation", begun.generation.id.encode())]
    if begun.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    if body.stream:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        stream = EventStream(
            _chunks(call, begun, kind, with_usage=with_usage),
            dress=lambda error: dress(error, call.request_id),
            last=lambda error: b"data: %s\n\n" % dress(error, call.request_id)[2],
            headers=headers,
        )
        await stream(call.scope, call.receive, call.send)
        return
    if begun.live is not None:
        with call.watch():
            await generations.collect(begun)
    generation, content = begun.now()
    await call.reply(msgspec.json.encode(_whole(generation, content.output, kind)), headers=headers)


async def _chunks(call: Call, begun: Begun, kind: str, *, with_usage: bool) -> AsyncGenerator[bytes, None]:
    """The chunks; bytes that speak this wire already go on as they came."""
    head = _head(begun.generation, kind, chunk=True)
    if begun.live is None:
        for each in (Chunk(begun.content.output), Chunk(finish_reason=begun.generation.finish_reason)):
            yield _chunk(head, each, kind, first=bool(each.text))
    else:
        first = True
        async with aclosing(call.services.generations.stream(begun)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if chunk.wire and chunk.dialect == DIALECTS[kind]:
                    if first:
                        head = _head_of(chunk.wire, head)
                    first = False
                    yield chunk.wire
                    continue
                for part in chunk.parts():
                    if part.text or part.finish_reason:
                        yield _chunk(head, part, kind, first=first)
                        first = False
    if with_usage:
        generation, _ = begun.now()
        yield b"data: %s\n\n" % msgspec.json.encode({**head, "choices": [], "usage": _usage(generation)})
    yield DONE


def _head(generation: Generation, kind: str, *, chunk: bool) -> dict[str, Any]:
    name = ("chat.completion.chunk" if chunk else "chat.completion") if kind == "chat" else "text_completion"
    prefix = "chatcmpl" if kind == "chat" else "cmpl"
    return {
        "id": f"{prefix}-{generation.id[4:]}",
        "object": name,
        "created": generation.created_at // SECOND,
        "model": generation.model,
    }


def _head_of(wire: bytes, head: dict[str, Any]) -> dict[str, Any]:
    """The same with the id that the first event carries, so that all chunks have one."""
    line = next((line for line in wire.splitlines() if line.startswith(b"data:")), b"")
    try:
        read = msgspec.json.decode(line[5:])
        return {**head, "id": read["id"], "created": read["created"]}
    except (msgspec.DecodeError, KeyError, TypeError):
        return head


def _chunk(head: dict[str, Any], part: Chunk, kind: str, *, first: bool) -> bytes:
    said: dict[str, Any]
    if kind == "chat":
        delta = {"role": "assistant"} if first else {}
        said = {"delta": {**delta, "content": part.text} if part.text or first else {}}
    else:
        said = {"text": part.text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": part.finish_reason and _reason(part.finish_reason)}
    return b"data: %s\n\n" % msgspec.json.encode({**head, "choices": [choice]})


def _whole(generation: Generation, output: str, kind: str) -> dict[str, Any]:
    said = (
        {"message": {"role": "assistant", "content": output, "refusal": None}} if kind == "chat" else {"text": output}
    )
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": _reason(generation.finish_reason)}
    return {**_head(generation, kind, chunk=False), "choices": [choice], "usage": _usage(generation)}


def _reason(reason: str | None) -> str:
    return reason if reason in REASONS else "stop"


def _usage(generation: Generation) -> dict[str, int]:
    prompt, completion = generation.prompt_tokens or 0, generation.completion_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _model(row: Model) -> dict[str, Any]:
    return {"id": row.name, "object": "model", "created": 1_767_225_600, "owned_by": row.engine}


def _text(message: OpenAIMessage) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)


def _role(role: str) -> str:
    return "system" if role == "developer" else role


def _who(call: Call) -> Principal:
    return any_key(call.services, call.headers.get(b"authorization"), address(call.scope))
