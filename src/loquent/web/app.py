"""The web application: every surface, over one set of services, behind one edge."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from loquent import __version__
from loquent.checks import check, warn
from loquent.domain.errors import LoquentError
from loquent.settings.environment import load_settings
from loquent.web.api import (
    documents,
    embeddings,
    feedback,
    generations,
    health,
    history,
    images,
    models,
    sessions,
    summaries,
    users,
)
from loquent.web.compat import chat, getdoc, openai, responses, text_generations, upload
from loquent.web.compat import embeddings as openai_embeddings
from loquent.web.direct import Direct
from loquent.web.document import document
from loquent.web.edge import Edge
from loquent.web.errors import Dress, detail, ours, problem
from loquent.web.observe import configure_logs
from loquent.web.pages import assets, docs, home
from loquent.web.traces import TracedEdge
from loquent.wiring import Services, build

DIRECT: tuple[Direct, ...] = (
    *(generations.CREATE, openai.CHAT, openai.COMPLETION, responses.CREATE),
    *(embeddings.CREATE, openai_embeddings.CREATE, text_generations.CREATE, chat.CHAT),
)
ROUTERS = (
    *(generations.router, summaries.router, models.router, users.router, health.router, openai.router),
    *(responses.router, history.router, feedback.router, sessions.router, chat.router),
    *(text_generations.router, documents.router, getdoc.router, images.router, upload.router),
    *(home.router, docs.router, assets.router),
)
DRESSES: dict[str, Dress] = {
    **dict.fromkeys(text_generations.PREFIXES, text_generations.dress),
    **dict.fromkeys((*chat.PREFIXES, getdoc.PREFIX), detail),
    **dict.fromkeys(upload.PREFIXES, upload.dress),
    "/v1/": openai.dress,
}
UPLOADS = frozenset({summaries.UPLOAD, documents.UPLOAD, getdoc.UPLOAD, images.UPLOAD, upload.UPLOAD}).union(
    each.path for each in DIRECT if each.takes_pictures
)


def create_app(services: Services | None = None) -> Edge:
    """The application to serve; by default built from the environment. Raises Misconfigured."""
    if services is None:
        settings = load_settings()
        configure_logs(settings)
        check(settings)
        services = build(settings)
        warn(services)
    direct: dict[str, ASGIApp] = {each.path: each for each in DIRECT}
    if services.tracer is not None:
        return TracedEdge(make_routes(), services, direct, DRESSES, UPLOADS, tracer=services.tracer)
    return Edge(make_routes(), services, direct, DRESSES, UPLOADS)


@cache
def make_routes() -> FastAPI:
    """The route table, as FastAPI holds it: one for all applications of a process, as the edge says whose services."""
    app = FastAPI(
        title="Loquent",
        version=__version__,
        summary="The self-hosted backend for AI features.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for kind in (LoquentError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer)
    for direct in DIRECT:
        app.router.routes.append(direct.route())
    for router in ROUTERS:
        app.include_router(router)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(describe(), list(DIRECT))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own documented way to extend the document
    return app


async def _answer(request: Request, error: Exception) -> Response:
    """Any error, dressed as the surface of its path wants it."""
    path = request.scope["path"]
    dress = next((dress for prefix, dress in DRESSES.items() if path.startswith(prefix)), problem)
    status, headers, body = dress(ours(error), request.scope["loquent.request_id"])
    answer = Response(body, status)
    answer.raw_headers.extend(headers)
    return answer
