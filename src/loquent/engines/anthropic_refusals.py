"""A refusal by Anthropic's Messages API in our own terms: by its type, its code and, where there is none, its words.

Source: https://platform.claude.com/docs/en/api/errors
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from loquent.domain.errors import ContextOverflow, EngineBusy, LoquentError
from loquent.engines.refusals import UNREADABLE, meaning, retry_after, spent, told

STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that goes with each type of error (api/errors): inside a stream there is only the type."""

FIELDS: Mapping[str, str] = {
    "output_config.effort": "reasoning_effort",
    "output_config": "response_format",
    "stop_sequences": "stop",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "messages": "messages",
    "tool_choice": "tool_choice",
    "tools": "tools",
    "thinking": "reasoning_effort",
    "effort": "reasoning_effort",
}
"""What a refusal speaks of, and what we call it; the first that it names."""


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes, name: str, *, secret: str = "") -> LoquentError:
    """What an engine's refusal means in our own terms; status 0: an error inside an answer that began well."""
    words, kind, code = fault_of(body)
    if secret:
        words = words.replace(secret, "…")
    status = status or STATUSES.get(kind, 0)
    # There is no code for these, so the words are all there is to know them by.
    if status == 400 and ("prompt is too long" in words or "exceed context limit" in words):
        return ContextOverflow(told(status, words, name), field="messages")
    is_spent = code.endswith("spend_limit_reached") or "credit balance" in words or "API usage limits" in words
    if status == 402 or (status in (400, 429) and is_spent):
        return spent(name)
    if status == 529:
        return EngineBusy(told(status, words, name), retry_after=retry_after(headers))
    field = next((ours for theirs, ours in FIELDS.items() if theirs in words), "")
    return meaning(status, words, headers, name, field=field)


class Fault(msgspec.Struct):
    """An error: its type, its words, and sometimes a code that is finer than the type."""

    type: str = ""
    message: str = ""
    details: Any = None


class Refused(msgspec.Struct):
    """The body of a refusal, and the data of an ``error`` event."""

    error: Fault


def fault_of(body: bytes) -> tuple[str, str, str]:
    """The words, type and code of an error; empty where it has another form, as of a proxy on the way."""
    try:
        fault = msgspec.json.decode(body, type=Refused).error
    except UNREADABLE:
        return "", "", ""
    code = fault.details.get("error_code") if isinstance(fault.details, dict) else None
    return fault.message, fault.type, code if isinstance(code, str) else ""
