"""Schemathesis, which makes requests of all kinds from the OpenAPI document, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import BaseSchema
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from loquent.web.messages import LONGEST
from serving import Served, served
from surfaces import ACCESS, DETAILS, document

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120), pytest.mark.xdist_group("schemathesis")]

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
PAGES = {"/api/v1/docs", "/api/v1/redoc", "/api/v1/openapi.json"}
CALLED = {
    (method, path.replace(":path", ""))
    for method, path in ACCESS
    if path.startswith(("/api/v1/", "/v1/", *DETAILS)) and path.rstrip("/") not in PAGES
}
BOUNDED = settings(
    max_examples=4,  # beside those that it makes of the document by a plan: some hundred for a large body
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(scope="module")
def schema() -> BaseSchema:
    return schemathesis.openapi.from_dict(shortened(document()))


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all: to make one for each request costs more than the request."""
    with requests.Session() as opened:
        opened.trust_env = False
        yield opened


def shortened(part: Any) -> Any:
    """The document, its longest texts of a length that is quick to make: a million characters are no body at all."""
    if isinstance(part, list):
        return [shortened(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {name: 20_000 if name == "maxLength" and each == LONGEST else shortened(each) for name, each in part.items()}


def hold(schema: BaseSchema, label: str, url: str, session: requests.Session) -> int:
    """Hold one operation to the document; gives the number of requests. ``schema.parametrize()`` would do the same,
    but makes all requests in every process that only lists the tests."""
    count = 0

    @BOUNDED
    def answered(case: Any) -> None:
        nonlocal count
        count += 1
        case.call_and_validate(base_url=url, session=session, checks=CHECKS)

    operation = schema.find_operation_by_label(label)
    assert operation is not None, label
    build_operation_test(
        config=schema.config, operation=operation, test_func=answered, given_kwargs={}, feedback=FeedbackSources()
    )()
    return count


@pytest.mark.parametrize("label", sorted(f"{method} {path}" for method, path in CALLED))
def test_nothing_made_from_the_document_breaks_the_server(
    label: str, schema: BaseSchema, server: Served, session: requests.Session
) -> None:
    assert hold(schema, label, server.url, session) > 0


def test_a_promise_that_the_server_does_not_keep_is_seen(server: Served, session: requests.Session) -> None:
    path = "/api/v1/health/live"
    promised = json.loads(json.dumps(document()))
    operation = promised["paths"][path]["get"]
    promised["paths"] = {path: {"get": operation}}
    operation["responses"]["200"]["content"] = {"application/json": {"schema": {"required": ["never said"]}}}
    with pytest.raises(FailureGroup, match="never said"):
        hold(schemathesis.openapi.from_dict(promised), f"GET {path}", server.url, session)


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
