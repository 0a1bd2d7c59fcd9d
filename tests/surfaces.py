"""What the tests know of the routes: who may call each, and a good body for each that takes one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi.routing import iter_route_contexts

from loquent.web.app import make_routes

PUBLIC, KNOWN, OWNER = "public", "known", "owner"
"""Anybody; any known caller; known callers, each for what is their own."""

TEXT = "The harbour of the old town was built before anybody kept records. " * 3

ACCESS: Mapping[tuple[str, str], str] = {
    ("GET", "/"): PUBLIC,
    ("GET", "/api/v1/docs"): PUBLIC,
    ("GET", "/api/v1/docs/"): PUBLIC,
    ("GET", "/api/v1/generations"): KNOWN,
    ("POST", "/api/v1/generations"): KNOWN,
    ("GET", "/api/v1/generations/{id}"): OWNER,
    ("DELETE", "/api/v1/generations/{id}"): OWNER,
    ("POST", "/api/v1/generations/{id}/cancel"): OWNER,
    ("GET", "/api/v1/generations/{id}/events"): OWNER,
    ("GET", "/api/v1/health"): PUBLIC,
    ("GET", "/api/v1/health/detailed"): PUBLIC,
    ("GET", "/api/v1/health/live"): PUBLIC,
    ("GET", "/api/v1/health/ready"): PUBLIC,
    ("GET", "/api/v1/models"): KNOWN,
    ("GET", "/api/v1/openapi.json"): PUBLIC,
    ("GET", "/api/v1/redoc"): PUBLIC,
    ("GET", "/api/v1/redoc/"): PUBLIC,
    ("GET", "/api/v1/summaries"): KNOWN,
    ("POST", "/api/v1/summaries"): KNOWN,
    ("POST", "/api/v1/summaries/files"): KNOWN,
    ("GET", "/api/v1/summaries/{id}"): OWNER,
    ("POST", "/api/v1/token"): PUBLIC,
    ("POST", "/api/v1/users"): PUBLIC,
    ("GET", "/api/v1/users/me"): KNOWN,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/docs/"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/static/{asked}/{name:path}"): PUBLIC,
    ("POST", "/v1/chat/completions"): KNOWN,
    ("POST", "/v1/completions"): KNOWN,
    ("GET", "/v1/models"): KNOWN,
    ("GET", "/v1/models/{name:path}"): KNOWN,
}
"""The access matrix. A route without a row here fails the tests, and so does a row without its route."""

SAMPLES: Mapping[str, dict[str, Any]] = {
    "/api/v1/generations": {"prompt": "one two three"},
    "/api/v1/summaries": {"text": TEXT},
    "/api/v1/users": {"username": "carol", "password": "a long enough one"},
    "/v1/chat/completions": {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]},
    "/v1/completions": {"model": "echo", "prompt": "one two three"},
}
"""A body that is good, for each path that takes JSON."""

FORMS: Mapping[str, Mapping[str, str]] = {
    "/api/v1/token": {"username": "carol", "password": "a long enough one"},
    "/api/v1/summaries/files": {"file": TEXT},
}
"""The fields of a form that is good, for each path that takes one; ``file`` is a file."""


def routes() -> set[tuple[str, str]]:
    """Every method and path of the application."""
    found = set()
    for route in iter_route_contexts(make_routes(None).router.routes):
        found |= {(method, str(route.path)) for method in (route.methods or {"GET"}) - {"HEAD"}}
    return found


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return make_routes(None).openapi()


def taking(media: str) -> dict[str, dict[str, Any]]:
    """The paths whose POST takes a body of that type, with the schema of it."""
    found = {}
    for path, operations in document()["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        if media in content:
            found[path] = resolved(content[media]["schema"])
    return found


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema, its reference followed."""
    reference = schema.get("$ref")
    return document()["components"]["schemas"][reference.rpartition("/")[2]] if reference else schema


def types(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a value of this schema may have."""
    schema = resolved(schema)
    found = {schema["type"]} if "type" in schema else set()
    return found.union(*(types(each) for each in schema.get("anyOf", ())))
