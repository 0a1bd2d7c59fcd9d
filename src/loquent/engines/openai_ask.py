"""What is asked on OpenAI's wire: messages, tools and their results, a prompt, or texts to make vectors of."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loquent.domain.requests import AUTO, Message, Tool
from loquent.ports.engine import Ask

encode = msgspec.json.Encoder().encode

WITH_USAGE = {"include_usage": True}


class Body(msgspec.Struct, omit_defaults=True):
    """What is asked, under OpenAI's names."""

    model: str
    messages: Sequence[Mapping[str, Any]] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_format: Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | int | None = None  # of a chat whether, of a completion how many others
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    stream: bool = False
    stream_options: Mapping[str, bool] | None = None


def body(ask: Ask, id: str, *, is_original: bool) -> bytes:
    """A chat, or a completion. ``is_original``: OpenAI's own newer models refuse max_tokens, others know no else."""
    wanted, is_chat = ask.parameters, ask.prompt is None
    is_newer = is_original and is_chat
    asked = Body(
        model=id,
        messages=list(map(_message, ask.messages)) if is_chat else None,
        prompt=ask.prompt,
        max_tokens=None if is_newer else wanted.max_tokens,
        max_completion_tokens=wanted.max_tokens if is_newer else None,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        seed=wanted.seed,
        stop=wanted.stop,
        response_format=wanted.response_format,
        stream=ask.streamed,
        stream_options=WITH_USAGE if ask.streamed else None,
    )
    if wanted.logprobs is not None:
        asked.logprobs = True if is_chat else wanted.logprobs
        asked.top_logprobs = (wanted.logprobs or None) if is_chat else None
    if is_chat:
        asked.reasoning_effort = wanted.reasoning_effort
        if ask.tools:
            asked.tools = list(map(_tool, ask.tools))
            asked.tool_choice = _choice(ask)
            asked.parallel_tool_calls = ask.parallel_calls
    return encode(asked)


def _message(message: Message) -> Mapping[str, Any]:
    """Text alone; in parts where there are pictures (data URLs); calls of tools, and what they gave back."""
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.pictures:
        said["content"] = _parts(message)
    if message.calls:
        said["content"] = said["content"] or None
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    if message.call_id:
        said["tool_call_id"] = message.call_id
    return said


def _parts(message: Message) -> list[Mapping[str, Any]]:
    parts: list[Mapping[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    for picture in message.pictures:
        data = base64.b64encode(picture.data).decode("ascii")
        parts.append({"type": "image_url", "image_url": {"url": f"data:{picture.media_type};base64,{data}"}})
    return parts


def _tool(tool: Tool) -> Mapping[str, Any]:
    told = {"description": tool.description or None, "parameters": tool.parameters, "strict": tool.strict}
    kept = {name: value for name, value in told.items() if value is not None}
    return {"type": "function", "function": {"name": tool.name, **kept}}


def _choice(ask: Ask) -> str | Mapping[str, Any] | None:
    if ask.tool:
        return {"type": "function", "function": {"name": ask.tool}}
    return None if ask.tool_choice == AUTO else ask.tool_choice
