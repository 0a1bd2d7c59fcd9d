"""The OpenAPI document: what the framework knows of the routes, the direct ones, and every surface's own errors."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic.json_schema import models_json_schema

from loquent.web.direct import Direct

REFUSED = "What was asked cannot be done as asked"
WHOLE = {"application/json": {"schema": {"type": "object"}}}
ANSWERS = {"200": {**WHOLE, "text/event-stream": {"schema": {"type": "string"}}}, "202": WHOLE}
_TEXT, _TEXT_OR_NONE = {"type": "string"}, {"type": ["string", "null"]}
ERRORS = {
    "Problem": {
        "title": "Problem",
        "description": "What is wrong (RFC 9457)",
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "status": {"type": "integer"},
            **dict.fromkeys(("title", "detail", "code", "request_id", "field"), _TEXT),
        },
    },
    "Detail": {
        "title": "Detail",
        "description": "What is wrong, as the families say it",
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": _TEXT},
    },
    "Error": {
        "title": "Error",
        "description": "What is wrong, as OpenAI says it",
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NONE, "code": _TEXT_OR_NONE},
            }
        },
    },
}
"""The forms of errors on the three kinds of surface."""
FORMS = {"/api/": "Problem", "/v1/": "Error"}
"""Which of them by the beginning of a path; the families' paths lie elsewhere."""


def document(schema: dict[str, Any], routes: list[Direct]) -> dict[str, Any]:
    """The OpenAPI document with the direct routes in it, and with what every route says of errors and of who asks."""
    _, definitions = models_json_schema(
        [(each.body, "validation") for each in routes], ref_template="#/components/schemas/{model}"
    )
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
    for each in routes:
        reference = {"$ref": f"#/components/schemas/{each.body.__name__}"}
        schema["paths"][each.path] = {
            **schema["paths"].get(each.path, {}),
            "post": {
                "tags": list(each.tags),
                "summary": each.summary,
                "description": inspect.getdoc(each.handler) or "",
                "operationId": each.handler.__name__,
                "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}},
                "responses": {
                    status: {"description": means, **({"content": ANSWERS[status]} if status in ANSWERS else {})}
                    for status, means in each.answers.items()
                },
            },
        }
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            _tell_errors(path, operation["responses"])
    for framework in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(framework, None)
    components["schemas"] |= ERRORS
    flow = {"password": {"tokenUrl": "/api/v1/token", "scopes": {}}}
    components["securitySchemes"] = {"token": {"type": "oauth2", "flows": flow}}
    return {**schema, "security": [{"token": []}, {}]}


def _tell_errors(path: str, responses: dict[str, Any]) -> None:
    """Every error of a route in the form of its surface, in place of the framework's own."""
    name = next((form for begins, form in FORMS.items() if path.startswith(begins)), "Detail")
    media = "application/problem+json" if name == "Problem" else "application/json"
    content = {media: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    for status, response in responses.items():
        if status >= "400" and ("content" not in response or status == "422"):
            response.update(description=response["description"].replace("Validation Error", REFUSED), content=content)
    responses.setdefault("default", {"description": "What is wrong", "content": content})
