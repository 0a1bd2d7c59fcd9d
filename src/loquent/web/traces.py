"""Traces of requests: the edge, with a span around each; built only where traces are on."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from loquent.ports.tracer import SERVER, Span, Tracer, current
from loquent.web.edge import GONE, NO_ROUTE, Edge, template
from loquent.web.errors import Dress
from loquent.wiring import Services

QUIET = ("/metrics", "/api/v1/health", "/static/", "/favicon")
"""Where paths begin that are asked for all the time and of which nobody wants to see anything."""


class TracedEdge(Edge):
    """See Edge."""

    def __init__(
        self,
        app: ASGIApp,
        services: Services,
        direct: Mapping[str, ASGIApp],
        dresses: Mapping[str, Dress],
        uploads: frozenset[str],
        *,
        tracer: Tracer,
    ) -> None:
        super().__init__(app, services, direct, dresses, uploads)
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"].startswith(QUIET):
            await super().__call__(scope, receive, send)
            return
        heard = self._tracer.heard
        caller = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in heard}
        about = {"http.request.method": scope["method"], "url.scheme": scope.get("scheme", "http")}
        span = scope["loquent.span"] = self._tracer.begin(scope["method"], SERVER, caller, about)
        current.set(span)  # the server gives each request a task, and with it a context, of its own
        try:
            await super().__call__(scope, receive, send)
        finally:
            span.end()

    def _note(self, scope: Scope, path: str, status: int, seconds: float) -> None:
        super()._note(scope, path, status, seconds)
        span: Span | None = scope.get("loquent.span")
        if span is None or not span.is_kept:
            return
        span.tell({"loquent.request_id": scope["loquent.request_id"]})
        route = path if path in self._direct else template(scope)
        if route != NO_ROUTE:  # a path itself is not told: to some clients the id of a chat is the key to it
            span.call(f"{scope['method']} {route}")
            span.tell({"http.route": route})
        if status == GONE:
            span.tell({"loquent.outcome": "the caller hung up"})
        else:
            span.tell({"http.response.status_code": status})
        if status >= 500:
            span.fail(str(status))
