"""What answers are made of: JSON, headers that tell of a generation, and one that runs while its caller waits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from fastapi import Response

from loquent.domain.generations import Content, Generation
from loquent.services.generations import Generations
from loquent.services.wanted import Begun
from loquent.web.body import HungUp
from loquent.web.errors import Headers, rate_headers
from loquent.web.kept import kept
from loquent.web.sse import EventStream, Watch

Show = Callable[[Generation, Content], dict[str, Any]]


def json_answer(body: Any, *, status: int = 200, headers: Headers | None = None) -> Response:
    """An answer in JSON."""
    answer = Response(msgspec.json.encode(body), status, media_type="application/json")
    answer.raw_headers.extend(headers or [])
    return answer


def place_of(begun: Begun) -> tuple[bytes, bytes]:
    """The header that says where a job is looked at."""
    return b"location", f"/api/v1/generations/{begun.generation.id}".encode()


def headers_of(begun: Begun) -> Headers:
    """What the answer says of a generation beside its body: its id, the caller's rate, whether it is a repeat."""
    headers = [*rate_headers(begun.limit), (b"x-loquent-generation", begun.generation.id.encode()), *kept(begun)]
    return [*headers, (b"idempotent-replayed", b"true")] if begun.replayed else headers


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
