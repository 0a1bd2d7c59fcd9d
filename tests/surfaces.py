"""What the tests know of the routes: who may call each, and a good body for each that takes one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi.routing import iter_route_contexts

from loquent.web.app import make_routes
from making import GENERATION, HELD
from samples import pictures

PUBLIC, KNOWN, OWNER, TOKEN, ADMIN = "public", "known", "owner", "token", "admin"
"""Anybody; any known caller; known callers, each for what is their own; callers with a token, never anonymous ones;
administrators, by their account as it stands."""

PICTURE = pictures.plain("PNG")
TEXT = "The harbour of the old town was built before anybody kept records. " * 3

ACCESS: Mapping[tuple[str, str], str] = {
    ("GET", "/"): PUBLIC,
    ("GET", "/api/v1/docs"): PUBLIC,
    ("GET", "/api/v1/docs/"): PUBLIC,
    ("GET", "/api/v1/documents"): KNOWN,
    ("POST", "/api/v1/documents"): KNOWN,
    ("GET", "/api/v1/documents/{id}"): OWNER,
    ("DELETE", "/api/v1/documents/{id}"): OWNER,
    ("POST", "/api/v1/documents/{id}/generations"): OWNER,
    ("GET", "/api/v1/documents/{id}/original"): OWNER,
    ("GET", "/api/v1/documents/{id}/text"): OWNER,
    ("POST", "/api/v1/embeddings"): KNOWN,
    ("GET", "/api/v1/feedback"): KNOWN,
    ("POST", "/api/v1/feedback"): KNOWN,
    ("GET", "/api/v1/feedback/export"): KNOWN,
    ("GET", "/api/v1/feedback/{id}"): OWNER,
    ("DELETE", "/api/v1/feedback/{id}"): OWNER,
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
    ("GET", "/api/v1/history"): KNOWN,
    ("GET", "/api/v1/history/export"): KNOWN,
    ("GET", "/api/v1/images"): KNOWN,
    ("POST", "/api/v1/images"): KNOWN,
    ("GET", "/api/v1/images/{id}"): OWNER,
    ("DELETE", "/api/v1/images/{id}"): OWNER,
    ("POST", "/api/v1/images/{id}/generations"): OWNER,
    ("GET", "/api/v1/images/{id}/original"): OWNER,
    ("GET", "/api/v1/models"): KNOWN,
    ("POST", "/api/v1/models"): ADMIN,
    ("GET", "/api/v1/models/{name:path}"): KNOWN,
    ("PUT", "/api/v1/models/{name:path}"): ADMIN,
    ("DELETE", "/api/v1/models/{name:path}"): ADMIN,
    ("POST", "/api/v1/models/{name:path}/test"): ADMIN,
    ("GET", "/api/v1/openapi.json"): PUBLIC,
    ("GET", "/api/v1/redoc"): PUBLIC,
    ("GET", "/api/v1/redoc/"): PUBLIC,
    ("GET", "/api/v1/sessions"): KNOWN,
    ("POST", "/api/v1/sessions"): KNOWN,
    ("GET", "/api/v1/sessions/{id}"): OWNER,
    ("PATCH", "/api/v1/sessions/{id}"): OWNER,
    ("DELETE", "/api/v1/sessions/{id}"): OWNER,
    ("GET", "/api/v1/sessions/{id}/turns"): OWNER,
    ("POST", "/api/v1/sessions/{id}/turns"): OWNER,
    ("POST", "/api/v1/sessions/{id}/regenerate"): OWNER,
    ("POST", "/api/v1/sessions/{id}/stop"): OWNER,
    ("GET", "/api/v1/summaries"): KNOWN,
    ("POST", "/api/v1/summaries"): KNOWN,
    ("POST", "/api/v1/summaries/files"): KNOWN,
    ("GET", "/api/v1/summaries/{id}"): OWNER,
    ("POST", "/api/v1/token"): PUBLIC,
    ("POST", "/api/v1/users"): PUBLIC,
    ("GET", "/api/v1/users/me"): KNOWN,
    ("POST", "/auth/login"): PUBLIC,
    ("POST", "/auth/register"): PUBLIC,
    ("POST", "/chat"): KNOWN,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/docs/"): PUBLIC,
    ("POST", "/feedback"): KNOWN,
    ("GET", "/getdoc/allResponses"): KNOWN,
    ("GET", "/getdoc/responsedetails"): KNOWN,
    ("POST", "/getdoc/uploadfile"): KNOWN,
    ("GET", "/metrics"): PUBLIC,
    ("PUT", "/models"): TOKEN,
    ("POST", "/session/initialize_session"): KNOWN,
    ("GET", "/static/{asked}/{name:path}"): PUBLIC,
    ("GET", "/text_generations"): TOKEN,
    ("POST", "/text_generations"): TOKEN,
    ("POST", "/token"): PUBLIC,
    ("GET", "/upload/history"): TOKEN,
    ("POST", "/upload/image"): TOKEN,
    ("POST", "/users"): PUBLIC,
    ("POST", "/v1/chat/completions"): KNOWN,
    ("POST", "/v1/completions"): KNOWN,
    ("POST", "/v1/embeddings"): KNOWN,
    ("GET", "/v1/models"): KNOWN,
    ("GET", "/v1/models/{name:path}"): KNOWN,
    ("POST", "/v1/responses"): KNOWN,
    ("GET", "/v1/responses/{id}"): OWNER,
    ("DELETE", "/v1/responses/{id}"): OWNER,
    ("POST", "/v1/responses/{id}/cancel"): OWNER,
    ("GET", "/v1/responses/{id}/input_items"): OWNER,
}
"""The access matrix. A route without a row here fails the tests, and so does a row without its route."""

SAMPLES: Mapping[str, dict[str, Any]] = {
    "/api/v1/documents/{id}/generations": {"instruction": "What is it about?", "model": "echo"},
    "/api/v1/embeddings": {"input": "one two three"},
    "/api/v1/feedback": {"generation_id": GENERATION, "thumb": "up", "comment": "very good"},
    "/api/v1/generations": {"prompt": "one two three"},
    "/api/v1/images/{id}/generations": {"prompt": "What is it about?", "model": "seer"},
    "/api/v1/models": {"name": "org/parrot", "engine": "echo", "id": "echo", "fallback": ["echo"]},
    "/api/v1/sessions": {"title": "Boats"},
    "/api/v1/sessions/{id}/regenerate": {"model": "echo"},
    "/api/v1/sessions/{id}/turns": {"message": "one two three"},
    "/api/v1/summaries": {"text": TEXT},
    "/api/v1/users": {"username": "carol", "password": "a long enough one"},
    "/auth/login": {"username": "carol", "password": "a long enough one"},
    "/auth/register": {"username": "erin", "email": "erin@example.org", "password": "a long enough one"},
    "/chat": {"session_id": HELD, "role": "user", "content": "one two three"},
    "/feedback": {"session_id": HELD, "feedback": "very good"},
    "/text_generations": {"prompt": "one two three"},
    "/users": {"username": "dora", "password": "a long enough one"},
    "/v1/chat/completions": {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]},
    "/v1/embeddings": {"model": "echo", "input": ["one two three", "four"]},
    "/v1/completions": {"model": "echo", "prompt": "one two three"},
    "/v1/responses": {"model": "echo", "input": "one two three"},
}
"""A body that is good, for each path whose POST takes JSON, but for what it names: see making.filled."""

CHANGES: Mapping[str, dict[str, Any]] = {
    "/api/v1/models/{name:path}": {"name": "org/parrot", "engine": "echo", "id": "echo", "users": ["ann"]},
    "/api/v1/sessions/{id}": {"title": "Ships"},
}
"""The same for each path whose PATCH or PUT takes JSON."""

FORMS: Mapping[str, Mapping[str, str | bytes]] = {
    "/api/v1/token": {"username": "carol", "password": "a long enough one"},
    "/api/v1/documents": {"file": TEXT},
    "/api/v1/images": {"file": PICTURE},
    "/api/v1/summaries/files": {"file": TEXT},
    "/getdoc/uploadfile": {"file": TEXT},
    "/token": {"username": "carol", "password": "a long enough one"},
    "/upload/image": {"file": PICTURE},
}
"""The fields of a form that is good, for each path that takes one; ``file`` is a file."""

DETAILS: Mapping[str, str] = {
    **dict.fromkeys(("/users", "/token", "/models", "/text_generations"), r"\[E\d{3}\] .+|Not authenticated"),
    **dict.fromkeys(("/session", "/chat", "/feedback", "/getdoc", "/auth", "/upload"), ".+"),
}
"""The beginnings of the families' paths whose errors are ``{"detail": text}``, with what the text is like."""


def routes() -> set[tuple[str, str]]:
    """Every method and path of the application."""
    found = set()
    for route in iter_route_contexts(make_routes().router.routes):
        found |= {(method, str(route.path)) for method in (route.methods or {"GET"}) - {"HEAD"}}
    return found


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return make_routes().openapi()


def sample(method: str, path: str) -> dict[str, Any] | None:
    """A good body for that method there; None where it takes no JSON."""
    return {"POST": SAMPLES, "PATCH": CHANGES, "PUT": CHANGES}.get(method, {}).get(path)


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
