"""Health: for people, for load balancers and for monitors."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from loquent import __version__
from loquent.services.metrics import CONTENT_TYPE
from loquent.web.answers import json_answer
from loquent.web.deps import Ours, StrictRoute
from loquent.web.siblings import siblings

router = APIRouter(tags=["health"], route_class=StrictRoute)
NOT_YET: dict[int | str, dict[str, Any]] = {503: {"description": "Not yet", "content": {"application/json": {}}}}


@router.get("/api/v1/health", summary="Whether the server is there")
async def health() -> Response:
    """Answers at once, also while a model loads."""
    return json_answer({"status": "healthy", "service": "loquent", "version": __version__})


@router.get("/api/v1/health/detailed", summary="Which parts answer")
async def health_detailed(ours: Ours) -> Response:
    """Every part, asked now; `degraded` where one does not answer."""
    checks = await ours.health.checks()
    word = "healthy" if all(check.healthy for check in checks) else "degraded"
    said = {check.name: check.detail for check in checks}
    return json_answer({"status": word, "service": "loquent", "version": __version__, "checks": said})


@router.get("/api/v1/health/live", summary="Liveness")
async def live() -> Response:
    """200 while the process answers at all."""
    return json_answer({"status": "healthy"})


@router.get("/api/v1/health/ready", summary="Readiness", responses=NOT_YET)
async def ready(ours: Ours) -> Response:
    """200 where requests can be taken, else 503."""
    is_ready = await ours.health.ready()
    return json_answer({"status": "healthy" if is_ready else "degraded"}, status=200 if is_ready else 503)


@router.get("/metrics", summary="Metrics for Prometheus", include_in_schema=False)
async def metrics(ours: Ours) -> Response:
    """All counters in Prometheus' text form."""
    if not ours.settings.metrics:
        return Response(status_code=404)
    return Response(await siblings.page(ours.watch.page), media_type=CONTENT_TYPE)
