"""What Loquent is measured against: a bare Starlette proxy with aiohttp that passes bytes through, no more.

``BENCH_UPSTREAM=http://127.0.0.1:9000 python -m uvicorn bench.proxy:app --no-access-log``
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

KEPT = ("content-type", "authorization", "accept")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """One session for all requests; as many connections as there are callers, no limit of time on a stream."""
    async with aiohttp.ClientSession(
        os.environ["BENCH_UPSTREAM"],
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    ) as session:
        app.state.session = session
        yield


async def forward(request: Request) -> Response:
    """Pass the request on and the answer back: a stream as it comes, anything else whole."""
    session: aiohttp.ClientSession = request.app.state.session
    headers = {name: value for name in KEPT if (value := request.headers.get(name))}
    answer = await session.request(request.method, request.url.path, data=await request.body(), headers=headers)
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        async with answer:
            return Response(await answer.read(), answer.status, media_type=kind)
    return StreamingResponse(_body(answer), answer.status, media_type=kind)


async def _body(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:
        async for part in answer.content.iter_any():
            yield part


async def health(request: Request) -> Response:
    """For the one who waits for the start."""
    return Response("ok")


app = Starlette(
    routes=[Route("/health", health), Route("/{path:path}", forward, methods=["GET", "POST"])], lifespan=lifespan
)
