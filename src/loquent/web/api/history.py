"""History: one list of everything that one asked, by whatever surface; narrowed, searched, and given out whole."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Response

from loquent.domain.clock import iso
from loquent.domain.generations import Content, Generation
from loquent.domain.principals import Principal
from loquent.services.history import Filters, written
from loquent.web.api.asked import moment
from loquent.web.api.shown import list_answer, listed, shown
from loquent.web.deps import Ours, StrictRoute, Who
from loquent.web.download import Download
from loquent.wiring import Services

router = APIRouter(prefix="/api/v1/history", tags=["history"], route_class=StrictRoute)
EXPORTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A file",
        "content": {kind: {"schema": {"type": "string"}} for kind in ("application/x-ndjson", "text/csv")},
    }
}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a cell begins with that a spreadsheet would run (OWASP, CSV injection)."""


def _filters(
    kind: Literal["text", "chat", "summary", "document", "image", "embedding"] | None = None,
    status: Literal["pending", "processing", "completed", "failed", "cancelled"] | None = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
    surface: Annotated[str | None, Query(pattern="^[a-z]{1,40}$", description="api, openai, chat, …")] = None,
    session: Annotated[str | None, Query(pattern="^ses_[0-9a-f]{32}$")] = None,
    feedback: Annotated[
        Literal["up", "down", "noted", "any", "none"] | None, Query(description="noted: some, but no thumb")
    ] = None,
    created_after: Annotated[str | None, Query(max_length=40, description="ISO 8601")] = None,
    created_before: Annotated[str | None, Query(max_length=40, description="ISO 8601")] = None,
    q: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]+$", description="stands in its input or its output")
    ] = None,
) -> Filters:
    return Filters(
        kind=kind,
        status=status,
        model=model,
        created_after=moment("created_after", created_after),
        created_before=moment("created_before", created_before),
        surface=surface,
        session=session,
        rating=feedback,
        text=q,
    )


Narrowed = Annotated[Filters, Depends(_filters)]


@router.get("", summary="List everything one asked, newest first")
async def list_history(
    ours: Ours,
    who: Who,
    filters: Narrowed,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern="^gen_[0-9a-f]{32}$")] = None,
) -> Response:
    """A page, from behind the id `after`. Where `has_more` is true, go on from behind `last_id`.

    What no order of the store answers, a search above all, is looked for in steps: a page may be short, even empty,
    though there is more.
    """
    return list_answer(await ours.history.page(who, filters, limit=limit, after=after), _row)


@router.get("/export", summary="All of it as a file, with its texts", response_class=Response, responses=EXPORTS)
async def export_history(
    ours: Ours, who: Who, filters: Narrowed, format: Literal["jsonl", "csv"] = "jsonl"
) -> Response:
    """Newest first, narrowed as the list is. In CSV, a text that a spreadsheet would run has a `'` before it."""
    media, begin, line = FORMATS[format]
    return Download(_lines(ours, who, filters, begin, line), name=f"history.{format}", media_type=media)


async def _lines(
    ours: Services, who: Principal, filters: Filters, begin: bytes, line: Callable[[Generation, Content], bytes]
) -> AsyncGenerator[bytes, None]:
    yield begin
    async with aclosing(ours.history.export(who, filters)) as found:
        async for generation, content in found:
            yield line(generation, content)


def _row(generation: Generation) -> dict[str, Any]:
    return listed(generation) | _about(generation)


def _about(generation: Generation) -> dict[str, Any]:
    return {
        "session": generation.session,
        "turn": generation.turn,
        "turns_left_out": generation.turns_left_out,
        "upload": generation.upload,
        "feedback": generation.rating,
    }


def _json_line(generation: Generation, content: Content) -> bytes:
    return msgspec.json.encode(shown(generation, content) | _about(generation)) + b"\n"


def _cells(generation: Generation, content: Content) -> dict[str, Any]:
    return {
        "id": generation.id,
        "kind": generation.kind,
        "surface": generation.surface,
        "status": generation.status,
        "model": generation.model,
        "answered_by": generation.answered_by,
        "created_at": iso(generation.created_at),
        "completed_at": iso(generation.completed_at) if generation.completed_at else "",
        **_about(generation),
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "cost": generation.cost,
        "finish_reason": generation.finish_reason,
        "error": generation.error_message,
        "parameters": msgspec.json.encode(generation.parameters).decode(),
        "input": "\n\n".join(written(content.input)),
        "output": content.output,
    }


COLUMNS = (
    *("id", "kind", "surface", "status", "model", "created_at", "completed_at"),
    *("session", "turn", "turns_left_out", "upload", "feedback"),
    *("prompt_tokens", "completion_tokens", "cost", "finish_reason", "error", "parameters", "input", "output"),
    "answered_by",
)


def _csv_line(generation: Generation, content: Content) -> bytes:
    cells = _cells(generation, content)
    return _quoted([_inert(cells[name]) for name in COLUMNS])


def _quoted(cells: list[Any]) -> bytes:
    """A line as RFC 4180 wants it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().encode()


def _inert(cell: Any) -> Any:
    """The cell, a text so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip(" ").startswith(FORMULA) else cell


FORMATS: dict[str, tuple[str, bytes, Callable[[Generation, Content], bytes]]] = {
    "jsonl": ("application/x-ndjson", b"", _json_line),
    "csv": ("text/csv; charset=utf-8", _quoted(list(COLUMNS)), _csv_line),
}
