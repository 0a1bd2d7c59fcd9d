"""A generation on our wire: whole, and in a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import Response

from loquent.domain.clock import iso
from loquent.domain.generations import Content, Generation
from loquent.services.history import Listed
from loquent.web.answers import json_answer

TURN = ("session", "turn", "turns_left_out")  # of a chat; said only where there is something to say
COUNTED_APART = ("cached_tokens", "reasoning_tokens")  # of the usage, where the engine does


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


def list_answer(found: Listed, show: Callable[[Generation], dict[str, Any]]) -> Response:
    """A page of generations. ``last_id`` is where to go on from: behind all that was looked at."""
    return listing([show(each) for each in found.items], more=found.more, last=found.last if found.more else None)


def listing(rows: list[dict[str, Any]], *, more: bool = False, last: str | None = None) -> Response:
    """A list on our wire. ``last``: where to go on from, where that is not behind the last of the rows."""
    ends = {"first_id": rows[0]["id"] if rows else None, "last_id": last or (rows[-1]["id"] if rows else None)}
    return json_answer({"object": "list", "data": rows, **ends, "has_more": more})
