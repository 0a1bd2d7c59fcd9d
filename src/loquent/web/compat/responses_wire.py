"""A generation as a response on OpenAI's wire: the object, what was said in it, and what it was asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loquent.domain.clock import SECOND
from loquent.domain.generations import CANCELLED, COMPLETED, FAILED, PENDING, Content, Generation, Json
from loquent.web.compat.responses_ask import given
from loquent.web.compat.responses_items import Stored

QUEUED, IN_PROGRESS, INCOMPLETE = "queued", "in_progress", "incomplete"
CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
CODES = {
    "rate_limited": "rate_limit_exceeded",
    "invalid": "invalid_prompt",
    "context_length_exceeded": "invalid_prompt",
}
TOOL = {"description": None, "parameters": None, "strict": None}
KEPT = (
    *("instructions", "previous_response_id", "max_output_tokens", "max_tool_calls", "temperature", "top_p"),
    *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
)
"""What is shown again as it came, null where it did not."""


def wire_id(generation: str) -> str:
    """The id that the wire knows."""
    return f"resp_{generation.removeprefix('gen_')}"


def own_id(wire: str) -> str:
    """Our own form of it; of what is no such id, one that nobody has."""
    return f"gen_{wire[5:]}" if re.fullmatch("resp_[0-9a-f]{32}", wire) else ""


def status_of(generation: Generation) -> str:
    """Its status, as the wire has it."""
    if generation.status == COMPLETED:
        return INCOMPLETE if generation.finish_reason in CUT else COMPLETED
    if generation.status == PENDING:
        return QUEUED
    return generation.status if generation.status in (FAILED, CANCELLED) else IN_PROGRESS


def shown(
    generation: Generation, content: Content, *, output: Sequence[Json] | None = None, status: str | None = None
) -> dict[str, Any]:
    """The response. ``output`` and ``status``: where a stream tells them, not the record."""
    asked, status = content.input, status or status_of(generation)
    kept = asked["response"]
    return {
        "id": wire_id(generation.id),
        "object": "response",
        "created_at": generation.created_at // SECOND,
        "completed_at": generation.completed_at // SECOND
        if generation.completed_at and status in (COMPLETED, INCOMPLETE)
        else None,
        "status": status,
        "background": generation.mode == "background",
        "error": _error(generation) if status == FAILED else None,
        "incomplete_details": {"reason": CUT[generation.finish_reason or ""]} if status == INCOMPLETE else None,
        "model": generation.model,
        "output": output_of(generation, content, status) if output is None else output,
        "tools": [{"type": "function", **TOOL, **each} for each in asked.get("tools", ())],
        "tool_choice": kept.get("tool_choice", "auto"),
        "parallel_tool_calls": kept.get("parallel_tool_calls", True),
        "text": {"format": {"type": "text"}, "verbosity": "medium"} | kept.get("text", {}),
        "reasoning": {"effort": None, "summary": None} | kept.get("reasoning", {}),
        "metadata": kept.get("metadata", {}),
        "store": kept.get("store", True),
        "service_tier": "default",
        "top_logprobs": kept.get("top_logprobs", 0),
        "truncation": "disabled",
        "usage": _usage(generation) if status not in (QUEUED, IN_PROGRESS) else None,
        **{name: kept.get(name) for name in KEPT},
    }


def output_of(generation: Generation, content: Content, status: str) -> list[Json]:
    """What was said so far: what was thought, the text, and the calls."""
    more = content.more or {}
    calls = more.get("calls", ())
    items: list[Json] = []
    state = item_status(status)
    if reasoning := more.get("reasoning"):
        items.append(reasoning_item(item_id("rs", generation, 0), reasoning, state))
    if content.output or (status in (COMPLETED, INCOMPLETE) and not calls):
        logprobs = more.get("logprobs", ())
        items.append(message_item(item_id("msg", generation, len(items)), content.output, logprobs, state))
    for call in calls:
        items.append(call_item(item_id("fc", generation, len(items)), call, state))
    return items


def item_status(status: str) -> str:
    """The status of what a response holds, by its own."""
    if status in (QUEUED, IN_PROGRESS):
        return IN_PROGRESS
    return COMPLETED if status == COMPLETED else INCOMPLETE


def item_id(prefix: str, generation: Generation, number: int) -> str:
    """The id of an item of the output, by its place there."""
    return f"{prefix}_{generation.id.removeprefix('gen_')}{number:04x}"


def message_item(id: str, text: str, logprobs: Sequence[Json], status: str) -> dict[str, Any]:
    """A text as an item."""
    return {"id": id, "type": "message", "status": status, "role": "assistant", "content": [text_part(text, logprobs)]}


def text_part(text: str, logprobs: Sequence[Json]) -> dict[str, Any]:
    """The part of such an item that is the text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": shown_logprobs(logprobs)}


def call_item(id: str, call: Mapping[str, str], status: str) -> dict[str, Any]:
    """A call as an item."""
    said = {"call_id": call["id"], "name": call["name"], "arguments": call["arguments"]}
    return {"id": id, "type": "function_call", "status": status, **said}


def reasoning_item(id: str, text: str, status: str) -> dict[str, Any]:
    """What was thought as an item."""
    return {"id": id, "type": "reasoning", "status": status, "summary": [summary_part(text)]}


def summary_part(text: str) -> dict[str, str]:
    """The part of such an item that is the text."""
    return {"type": "summary_text", "text": text}


def shown_logprobs(logprobs: Sequence[Json]) -> list[dict[str, Any]]:
    """How likely each token was; the wire wants bytes of every one."""
    return [
        {**_logprob(each), "top_logprobs": [_logprob(other) for other in each.get("top_logprobs") or ()]}
        for each in logprobs
    ]


def input_items(generation: Generation, content: Content) -> list[dict[str, Any]]:
    """What the model was asked, in order, with all that went before in its chain; not the instructions."""
    hexadecimal = generation.id.removeprefix("gen_")
    items: list[dict[str, Any]] = []
    for message in given(content.input):
        for item in _items(message):
            prefix = {"function_call": "fc", "function_call_output": "fco"}.get(item["type"], "msg")
            items.append({"id": f"{prefix}_{hexadecimal}in{len(items):04x}", "status": "completed", **item})
    return items


def _items(message: Stored) -> Iterator[dict[str, Any]]:
    role, text, calls = message["role"], message["content"], message.get("calls", ())
    pictures = [
        {"type": "input_image", "detail": "auto", "image_url": f"data:{each['media_type']};base64,{each['data']}"}
        for each in message.get("pictures", ())
    ]
    said = text_part(text, ()) if role == "assistant" else {"type": "input_text", "text": text}
    parts = [said, *pictures] if text else pictures
    if role == "tool":
        yield {
            "type": "function_call_output",
            "call_id": message["call_id"],
            "output": parts if pictures else text,
        }
    elif parts or not calls:
        yield {"type": "message", "role": role, "content": parts or [said]}
    for call in calls:
        yield {"type": "function_call", "call_id": call["id"], "name": call["name"], "arguments": call["arguments"]}


def _logprob(said: Json) -> dict[str, Any]:
    octets = said.get("bytes")
    return {
        "token": said["token"],
        "logprob": said["logprob"],
        "bytes": list(said["token"].encode()) if octets is None else octets,
    }


def _error(generation: Generation) -> dict[str, str]:
    code = CODES.get(generation.error_code or "", "server_error")
    return {"code": code, "message": generation.error_message or "it failed"}


def _usage(generation: Generation) -> dict[str, Any]:
    asked, said = generation.prompt_tokens or 0, generation.completion_tokens or 0
    details = generation.details or {}
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": details.get("cached_tokens", 0), "cache_write_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": details.get("reasoning_tokens", 0)},
        "total_tokens": asked + said,
    }
