"""The edge: what every request passes first, whatever it wants. Pure ASGI, so that streams and hang-ups stay true.

A request id; bounds on headers, body and time; host names; direct routes by exact path; one log line and the
metrics at the end; and, last of all, an answer where something unexpected went wrong.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loquent.domain import ids
from loquent.domain.errors import LoquentError, TooLarge, Unavailable
from loquent.domain.log import Log, request
from loquent.services import metrics
from loquent.web.body import Bounded, HungUp
from loquent.web.errors import Dress, Headers, Plain, Refused, ours, problem
from loquent.web.observe import AccessLog
from loquent.web.proxies import Proxies
from loquent.web.wheel import Wheel
from loquent.wiring import Services

log = Log("loquent.http")
PORT = re.compile(r":\d*$")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
MOST_HEADERS, MOST_HEADER_BYTES = 100, 65_536
MOST_HOSTS = 100  # names, with their ports, that are remembered as served
SHORT = 4  # digits of the length of a body for which no room is held
UNWATCHED = 0.05  # seconds for which a call is too short to watch for a hang-up
GONE = 499  # the log's word for a client that hung up; never sent
NO_ROUTE = "none"  # of a path that nothing answers
ONCE = (b"authorization", b"content-length", b"content-type", b"host", b"idempotency-key", b"last-event-id")
SPARED = ("/cancel", "/stop", "/token", "/login", "/test")
"""How the paths end whose POST goes on though the disk is nearly full: it ends something, or adds nothing."""
CHANGING = frozenset(("POST", "PUT", "PATCH"))
SMALL = 1_000_000  # bytes of a body for which no room is held: the reserve is there for such
COPIES = 3  # of an upload on the disk, at its worst: the form's, our own, and the one that is kept
SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class Edge:
    """The outermost application."""

    def __init__(
        self,
        app: ASGIApp,
        services: Services,
        direct: Mapping[str, ASGIApp],
        dresses: Mapping[str, Dress],
        uploads: frozenset[str],
    ) -> None:
        self._app = app
        self.services = services
        self.is_stopping = False
        self.in_flight = 0  # requests that are being answered
        self._beside = SECURITY  # headers that every answer has
        metrics.in_flight.set_function(lambda: self.in_flight)
        self._loop: asyncio.AbstractEventLoop | None = None  # kept: to ask for it costs a call of the system
        self._direct = direct
        self._dresses = tuple(dresses.items())
        self._uploads = uploads
        found = services.settings
        self._hosts = frozenset(found.host_names)
        self._any_host = "*" in self._hosts
        self._known_hosts: set[bytes] = set()  # as they came, with their ports: these need not be looked at again
        self._domains = tuple(name for name in self._hosts if name.startswith("."))
        self._proxies = Proxies(found.trusted_proxies) if found.trusted_proxies else None
        self._room = services.room
        self._max_body, self._max_upload = found.max_body, found.max_upload
        self._bodies, self._watches = Wheel(found.body_seconds), Wheel(UNWATCHED)
        self._counters: dict[tuple[str, int], Any] = {}
        self._access = AccessLog()
        self._timers: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await Router(lifespan=self._lifespan)(scope, receive, send)
            return
        began = time.perf_counter()
        headers = scope["loquent.headers"] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if given and REQUEST_ID.fullmatch(given) else ids.new("req")
        scope["loquent.request_id"] = request_id
        scope["loquent.services"] = self.services
        scope["loquent.wheel"] = self._watches
        loop = self._loop = self._loop or asyncio.get_running_loop()
        scope["loquent.task"] = asyncio.current_task(loop)
        if self._proxies is not None and scope.get("client"):
            scope["client"] = (self._proxies.caller(scope["client"][0], scope["headers"]), 0)
        path: str = scope["path"]
        if path.endswith("/"):  # both spellings of every path, and no redirect: clients lose the body
            path = scope["path"] = path.rstrip("/") or path
        bound: Bounded | None = None
        held = 0
        request.set(request_id)
        answered, whole = 0, False

        async def sending(message: Message) -> None:
            nonlocal answered, whole
            if message["type"] == "http.response.start":
                answered = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *self._beside]
            else:
                whole = not message.get("more_body", False)
            await send(message)

        self.in_flight += 1
        try:
            self._check(scope, headers)
            app = self._direct.get(path) if scope["method"] == "POST" else None
            bound = self._bound(scope, headers, receive)
            is_large = path in self._uploads and _may_be_large(headers)
            if scope["method"] in CHANGING and (is_large or self._room.is_full):
                held = self._hold(path, headers)
            await (app or self._app)(scope, bound or receive, sending)
            answered = answered or GONE  # only for a caller who has gone is nothing said at all
        except HungUp:
            answered = answered or GONE
        except asyncio.CancelledError:
            answered = answered or GONE
            raise
        except Exception as error:
            known = ours(error)
            if not isinstance(error, LoquentError | Refused):
                log.exception("unexpected fault", path=path)
            if whole:
                return
            if answered:
                raise  # the server cuts the connection: half an answer must not look like a whole one
            status, extra, body = self.dress(path)(known, request_id)
            await sending({"type": "http.response.start", "status": status, "headers": extra})
            await sending({"type": "http.response.body", "body": body})
        finally:
            self.in_flight -= 1
            if held:
                self._room.let_go(held)
            if bound is not None:
                bound.close()
            self._note(scope, path, answered, time.perf_counter() - began)

    def leave(self) -> None:
        """Serve on, but end each connection with its answer: the next request then goes to somebody else."""
        self._beside = [*SECURITY, (b"connection", b"close")]

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        """For a server that starts what it serves; ours opens the services itself."""
        await self.services.open(works=self.services.settings.serve_jobs)
        try:
            yield
        finally:
            await self.services.close()

    def hurry(self) -> None:
        """Wait for no body any more: who sends one is told to come again."""
        self._bodies.ring_all()

    async def quiet(self, seconds: float) -> None:
        """Return when nothing is being answered any more, or after that many seconds."""
        deadline = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < deadline:  # noqa: ASYNC110  (once: no event for each request)
            await asyncio.sleep(0.02)

    def dress(self, path: str) -> Dress:
        """How errors are said on the surface that this path belongs to."""
        return next((dress for prefix, dress in self._dresses if path.startswith(prefix)), problem)

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        if self.is_stopping and scope["method"] != "GET":
            raise Unavailable("the server is stopping", retry_after=5)
        raw = scope["headers"]
        size = sum(map(len, headers)) + sum(map(len, headers.values()))
        if len(headers) < len(raw):
            _check_once([name for name, _ in raw])
            size = sum(len(name) + len(value) for name, value in raw)
        if len(raw) > MOST_HEADERS or size > MOST_HEADER_BYTES:
            raise Plain(431, f"a request takes at most {MOST_HEADERS} headers of {MOST_HEADER_BYTES} bytes in all")
        if not self._any_host and (host := headers.get(b"host", b"")) not in self._known_hosts:
            self._check_host(host)

    def _check_host(self, header: bytes) -> None:
        host = header.decode("latin-1")
        name = PORT.sub("", host).lower()
        if name not in self._hosts and not (self._domains and f".{name}".endswith(self._domains)):
            raise Plain(421, f"the host {host[:100]!r} is not served here; LOQUENT_ALLOWED_HOSTS names those that are")
        if len(self._known_hosts) < MOST_HOSTS:
            self._known_hosts.add(header)

    def _bound(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> Bounded | None:
        length = headers.get(b"content-length")
        if length is None and scope["method"] in ("GET", "HEAD") and b"transfer-encoding" not in headers:
            return None
        most = self._max_upload if scope["path"] in self._uploads else self._max_body
        if length is None:
            return Bounded(receive, self._bodies, most=most)
        if not length.isdigit():
            raise Plain(400, "Content-Length is not a number")
        if b"transfer-encoding" in headers:
            raise Plain(400, "Content-Length and Transfer-Encoding stand together")  # RFC 9112, 6.3: smuggling
        if len(length) > 18 or int(length) > most:
            raise TooLarge(f"the body is over {most} bytes")
        return Bounded(receive, self._bodies, most=most, length=int(length))

    def _hold(self, path: str, headers: Mapping[bytes, bytes]) -> int:
        """Room for what this request brings, to be let go after it. Raises OutOfSpace, before its body is read."""
        if not path.endswith(SPARED):
            self._room.check()
        unknown = self._max_upload if b"transfer-encoding" in headers else 0
        size = COPIES * int(headers.get(b"content-length", unknown)) if path in self._uploads else 0
        if size <= SMALL:
            return 0
        self._room.hold(size)
        return size

    def _note(self, scope: Scope, path: str, status: int, seconds: float) -> None:
        route = path if path in self._direct else template(scope)
        counter = self._counters.get((route, status))
        if counter is None:
            counter = self._counters[route, status] = metrics.requests.labels(route, str(status))
            self._timers.setdefault(route, metrics.request_seconds.labels(route))
        counter.inc()
        self._timers[route].observe(seconds)
        self._access(scope["method"], path, status, seconds, scope["loquent.request_id"])


def _may_be_large(headers: Mapping[bytes, bytes]) -> bool:
    return len(headers.get(b"content-length", b"unknown")) > SHORT


def _check_once(names: list[bytes]) -> None:
    """Raise where a header stands twice of which only one can be meant: others on the way may take the other."""
    for name in ONCE:
        if names.count(name) > 1:
            raise Plain(400, f"the header {name.decode()} stands twice")


def template(scope: Scope) -> str:
    """The route as it was declared, so that ids in paths make no new metric each."""
    context = scope.get("fastapi_effective_route_context") or scope.get("route")
    return getattr(context, "path", None) or NO_ROUTE
