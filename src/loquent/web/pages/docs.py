"""The API's documentation: Swagger UI to try it, Redoc to read it, both from our own files."""

from __future__ import annotations

from fastapi import APIRouter, Response

from loquent.web.pages.shell import POLICY, page

router = APIRouter(include_in_schema=False)

INLINE_STYLES = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
"""Both readers write styles into what they draw; scripts stay as strict as everywhere."""


@router.api_route("/docs", methods=["GET", "HEAD"])
@router.api_route("/docs/", methods=["GET", "HEAD"])
@router.api_route("/api/v1/docs", methods=["GET", "HEAD"])
@router.api_route("/api/v1/docs/", methods=["GET", "HEAD"])
async def swagger() -> Response:
    """Swagger UI."""
    return page("swagger.html", policy=INLINE_STYLES)


@router.api_route("/api/v1/redoc", methods=["GET", "HEAD"])
@router.api_route("/api/v1/redoc/", methods=["GET", "HEAD"])
async def redoc() -> Response:
    """Redoc."""
    return page("redoc.html", policy=INLINE_STYLES)
