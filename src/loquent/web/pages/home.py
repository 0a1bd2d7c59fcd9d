"""The first page, at /: what this is, and a try of it. A program that asks there is told that the server works."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from loquent import __version__
from loquent.web.deps import Ours
from loquent.web.pages.shell import page

router = APIRouter(include_in_schema=False)
WORKING = b'{"message":"Server is Working! ","status":"OK"}'  # documents family: exactly so, with the space


@router.api_route("/", methods=["GET", "HEAD"])
async def home(request: Request, ours: Ours) -> Response:
    """The page where HTML is asked for by name, which browsers do; else the documents family's answer."""
    if prefers_html(request.headers.get("accept", "")):
        found = ours.settings
        answer = page("home.html", version=__version__, metrics=found.metrics, registration=found.registration)
    else:
        answer = Response(WORKING, media_type="application/json")
    answer.headers["vary"] = "Accept"
    return answer


def prefers_html(accept: str) -> bool:
    """Whether an Accept header names HTML, and JSON not as much."""
    weights: dict[str, float] = {}
    for part in accept.split(","):
        media, *parameters = (each.strip().lower() for each in part.split(";"))
        said = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        weights[media] = float(said) if said.replace(".", "", 1).isdecimal() else 0.0
    return weights.get("text/html", 0.0) > weights.get("application/json", 0.0)
