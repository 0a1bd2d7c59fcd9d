"""Schemathesis, which makes requests of all kinds from the OpenAPI document, against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import httpx2
import pytest

from serving import Served, served
from surfaces import ACCESS, DETAILS, document

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120), pytest.mark.xdist_group("schemathesis")]

Hold = Callable[..., int]
PAGES = {"/api/v1/docs", "/api/v1/redoc", "/api/v1/openapi.json"}
CALLED = {
    (method, path.replace(":path", ""))
    for method, path in ACCESS
    if path.startswith(("/api/v1/", "/v1/", *DETAILS)) and path.rstrip("/") not in PAGES
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(scope="module")
def hold(server: Served) -> Iterator[Hold]:
    """Hold one operation of a document to it. What does so takes a third of a second to import: only where it runs."""
    with import_module("holding").holding(server.url) as found:
        yield found


@pytest.mark.parametrize("label", sorted(f"{method} {path}" for method, path in CALLED))
def test_nothing_made_from_the_document_breaks_the_server(label: str, hold: Hold) -> None:
    assert hold(label) > 0


def test_a_promise_that_the_server_does_not_keep_is_seen(hold: Hold) -> None:
    path = "/api/v1/health/live"
    promised = json.loads(json.dumps(document()))
    operation = promised["paths"][path]["get"]
    promised["paths"] = {path: {"get": operation}}
    operation["responses"]["200"]["content"] = {"application/json": {"schema": {"required": ["never said"]}}}
    with pytest.raises(BaseExceptionGroup, match="never said"):
        hold(f"GET {path}", promised)


def test_the_document_that_is_served_is_this_one(server: Served) -> None:
    answer = httpx2.get(f"{server.url}/api/v1/openapi.json")
    assert (answer.headers["content-type"], answer.json()) == ("application/json", json.loads(json.dumps(document())))


def test_the_document_has_every_route_that_programs_call() -> None:
    told = {(method.upper(), path) for path, operations in document()["paths"].items() for method in operations}
    assert told == CALLED


def test_the_document_holds_together() -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from (said for name, said in part.items() if name == "$ref")
            for each in part.values():
                yield from references(each)
        elif isinstance(part, list):
            for each in part:
                yield from references(each)

    schemas = document()["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(document())} <= set(schemas)
    operations = [each for path in document()["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    for each in operations:
        assert each["summary"]
        assert each["description"]
        assert each["responses"]["default"]["content"]
