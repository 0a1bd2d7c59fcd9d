"""A long list in one answer, as some families want it: rows are written as they are read, few in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import Response
from fastapi.responses import StreamingResponse

from loquent.domain.generations import Content, Generation
from loquent.domain.principals import Principal
from loquent.services.history import Filters
from loquent.wiring import Services

MOST_LISTED = 10_000  # rows, the newest first; /api/v1/history goes further


async def list_of(
    services: Services,
    who: Principal,
    filters: Filters,
    show: Callable[[Generation, Content], dict[str, Any] | None],
    *,
    begins: bytes = b"[",
    ends: bytes = b"]",
) -> Response:
    """One's own generations, each as ``show`` has it; those of which it says None are left out."""
    rows = _rows(services, who, filters, show)
    first = await anext(rows, b"")  # a store that is away is told by its status, not by half a list

    async def pieces() -> AsyncGenerator[bytes, None]:
        async with aclosing(rows):
            yield begins + first
            async for row in rows:
                yield b"," + row
        yield ends

    return StreamingResponse(pieces(), media_type="application/json")


async def _rows(
    services: Services,
    who: Principal,
    filters: Filters,
    show: Callable[[Generation, Content], dict[str, Any] | None],
) -> AsyncGenerator[bytes, None]:
    left = MOST_LISTED
    async with aclosing(services.history.export(who, filters)) as found:
        async for each in found:
            if (row := show(*each)) is not None:
                yield msgspec.json.encode(row)
                left -= 1
            if not left:
                return
