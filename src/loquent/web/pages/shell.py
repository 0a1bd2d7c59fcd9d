"""How a page is made: a template, the files it loads, and a policy that lets nothing else in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Response

from loquent.web.pages.assets import url

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def page(template: str, *, policy: str = POLICY, **words: Any) -> Response:
    """A page from its template."""
    headers = {"content-security-policy": policy, "cache-control": "no-cache"}
    return Response(_templates().get_template(template).render(words), headers=headers, media_type="text/html")


@cache
def _templates() -> Environment:
    """Made with the first page: who only speaks to the API never waits for Jinja."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals["asset"] = url
    return made
