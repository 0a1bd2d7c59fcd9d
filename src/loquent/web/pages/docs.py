"""The API's documentation: Swagger UI to try it, Redoc to read it, both from our own files."""

from __future__ import annotations

from fastapi import APIRouter, Response

from loquent.web.pages.shell import POLICY, page

router = APIRouter(include_in_schema=False)

REDOC_STYLES = (
    "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    "sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc=",
)
"""Redoc puts two style elements into its page: an empty one, which it fills by script, and one of its scroll bars."""

REDOC_POLICY = POLICY.replace(
    "style-src 'self'", " ".join(("style-src 'self'", *(f"'{each}'" for each in REDOC_STYLES)))
)


@router.api_route("/docs", methods=["GET", "HEAD"])
@router.api_route("/docs/", methods=["GET", "HEAD"])
@router.api_route("/api/v1/docs", methods=["GET", "HEAD"])
@router.api_route("/api/v1/docs/", methods=["GET", "HEAD"])
async def swagger() -> Response:
    """Swagger UI."""
    return page("swagger.html")


@router.api_route("/api/v1/redoc", methods=["GET", "HEAD"])
@router.api_route("/api/v1/redoc/", methods=["GET", "HEAD"])
async def redoc() -> Response:
    """Redoc."""
    return page("redoc.html", policy=REDOC_POLICY)
