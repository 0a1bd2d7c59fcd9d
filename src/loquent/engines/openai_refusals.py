"""What a refusal on OpenAI's wire means in our own terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from loquent.domain.errors import ContextOverflow, LoquentError, ModelLoading
from loquent.engines.refusals import UNREADABLE, meaning, retry_after, spent, told


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes, name: str, *, secret: str = "") -> LoquentError:
    """What an engine's refusal means in our own terms; status 0: an error inside an answer that began well."""
    words, code, kind = fault_of(body)
    if secret:
        words = words.replace(secret, "…")
    if not status and isinstance(code, int | str) and str(code).isdecimal():
        status = int(code)
    too_long = {str(code), kind} & {"context_length_exceeded", "exceed_context_size_error"}
    # llama.cpp says 500 to a text of more tokens than it makes a vector of at once.
    is_batch = status == 500 and "too large to process" in words
    if too_long or is_batch or (status in (400, 413) and "context length" in words):
        return ContextOverflow(told(status, words, name), field="messages")
    if code == "insufficient_quota" and status not in (401, 403):
        return spent(name)
    if status == 503 and "loading model" in words.lower():
        return ModelLoading(told(status, words, name), retry_after=retry_after(headers))
    return meaning(status, words, headers, name)


def fault_of(body: bytes) -> tuple[str, Any, str]:
    """The message, code and type of an error, in the forms that servers give it: OpenAI's, a string, FastAPI's."""
    try:
        said = msgspec.json.decode(body)
    except UNREADABLE:
        return "", None, ""
    fault = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(fault, str):
        return fault, None, ""
    if not isinstance(fault, dict):
        return "", None, ""
    words = fault.get("message") or fault.get("detail") or ""
    return words if isinstance(words, str) else "", fault.get("code"), str(fault.get("type"))
