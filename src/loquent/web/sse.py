"""Server-sent events: sent as they come, a comment in every silence, and nothing left running when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from loquent.domain.errors import LoquentError
from loquent.web.body import HungUp
from loquent.web.errors import Dressed, Headers
from loquent.web.wheel import Entry, Wheel

STALLED = 60.0  # seconds in which a client must have taken what was sent to it
QUIET = 15.0  # seconds of silence before a comment is sent
HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


def event(name: str, data: Any, *, id: int | str | None = None) -> bytes:
    """One event in the wire's form."""
    head = f"id: {id}\nevent: {name}\n" if id is not None else f"event: {name}\n"
    return b"%sdata: %s\n\n" % (head.encode(), msgspec.json.encode(data))


class Watch:
    """While open, a client that goes ends the work: the task is cancelled, and HungUp leaves the block.

    ``wheel``: what is over before it comes round is not watched, which is cheaper than to watch it.
    """

    def __init__(self, scope: Scope, receive: Receive, *, wheel: Wheel | None = None) -> None:
        self._receive = receive
        self._wheel = wheel
        self._task: asyncio.Task[Any] = scope["loquent.task"]
        self._entry: Entry | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False

    def __enter__(self) -> Watch:
        if self._wheel is not None:
            self._entry = self._wheel.add(self._begin)
        else:
            self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> None:
        if self._entry is not None:
            self._entry.call = None
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and isinstance(fault, asyncio.CancelledError) and self._task.uncancel() == 0:
            raise HungUp from None

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._until_gone())

    async def _until_gone(self) -> None:
        with contextlib.suppress(HTTPException):  # a body that breaks its bounds is no reason to stay
            while (await self._receive())["type"] != "http.disconnect":
                pass
        self._gone = True
        self._task.cancel()


class EventStream:
    """An answer that is a stream of events. The status waits for the first of them, or for the first silence.

    ``events`` gives whole events; a fault before the first is answered by ``dress``, one behind it by ``last``.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        dress: Callable[[LoquentError], Dressed],
        last: Callable[[LoquentError], bytes],
        headers: Headers | Callable[[], Headers] | None = None,  # asked for when they go out
    ) -> None:
        self._events = events
        self._dress = dress
        self._last = last
        self._headers = headers or []
        self._begun = False
        self._sent = self._sending = 0.0  # when something was sent; since when something is being sent
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, as ASGI wants it."""
        loop = asyncio.get_running_loop()
        self._sent = loop.time()
        self._task: asyncio.Task[Any] = scope["loquent.task"]
        self._timer = loop.call_later(QUIET, self._tick, loop, send)
        try:
            with Watch(scope, receive):
                async for data in self._events:
                    if not self._begun:
                        await self._begin(send)
                    self._sending = loop.time()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                    self._sent, self._sending = loop.time(), 0.0
        except LoquentError as error:
            await self._fail(error, send)
        finally:
            self._timer.cancel()
            await self._events.aclose()
            if self._comment is not None:
                self._comment.cancel()
                await asyncio.gather(self._comment, return_exceptions=True)
        if not self._begun:
            await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        self._begun = True
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *self._beside()]})

    def _beside(self) -> Headers:
        return self._headers() if callable(self._headers) else self._headers

    async def _fail(self, error: LoquentError, send: Send) -> None:
        if self._begun:
            await send({"type": "http.response.body", "body": self._last(error), "more_body": True})
            return
        self._begun = True
        status, headers, body = self._dress(error)
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *self._beside()]})
        await send({"type": "http.response.body", "body": body, "more_body": True})

    def _tick(self, loop: asyncio.AbstractEventLoop, send: Send) -> None:
        quiet = loop.time() - self._sent
        if self._sending and loop.time() - self._sending > STALLED:
            self._task.cancel()  # it takes nothing any more: whoever waits for it, waits for ever
        if quiet >= QUIET and (self._comment is None or self._comment.done()):
            self._comment = loop.create_task(self._say_quiet(send))
            quiet = 0.0
        self._timer = loop.call_later(QUIET - quiet, self._tick, loop, send)

    async def _say_quiet(self, send: Send) -> None:
        if not self._begun:
            await self._begin(send)
        await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})
        self._sent = asyncio.get_running_loop().time()
