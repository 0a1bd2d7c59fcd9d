"""The files that pages load. The version in their address is made of their content, so a browser may keep them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from loquent.domain.errors import NotFound

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent / "static"
TYPES: Mapping[str, str] = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
"""What is served, by suffix; anything else in the folder is not there."""

FOR_EVER = "public, max-age=31536000, immutable"


def url(name: str) -> str:
    """The address of a file, under the version of them all: a script finds its neighbours by relative names."""
    if name not in _files():
        raise LookupError(f"there is no file {name!r} to load")
    return f"/static/{version()}/{name}"


@router.api_route("/static/{asked}/{name:path}", methods=["GET", "HEAD"])
async def file(request: Request, asked: str, name: str) -> Response:
    """A file by its exact name. A page of another release still finds it, but does not keep it."""
    path = _files().get(name)
    if path is None:
        raise NotFound("there is nothing at this path")
    current = version()
    headers = {"cache-control": FOR_EVER if asked == current else "no-cache", "etag": f'"{current}"'}
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)


@cache
def version() -> str:
    """Changes when any of the files does."""
    whole = hashlib.sha256()
    for name, path in sorted(_files().items()):
        whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


@cache
def _files() -> Mapping[str, Path]:
    found = (path for path in FOLDER.rglob("*") if path.is_file() and path.suffix in TYPES)
    return {path.relative_to(FOLDER).as_posix(): path for path in found}
