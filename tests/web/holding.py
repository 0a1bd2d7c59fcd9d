"""Holds operations of our document to what it says of them, by Schemathesis, which makes the requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import BaseSchema
from schemathesis.checks import not_a_server_error
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from loquent.web.messages import LONGEST
from surfaces import document

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
BOUNDED = settings(
    max_examples=4,  # beside those that it makes of the document by a plan: some hundred for a large body
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def holding(url: str) -> Iterator[Callable[..., int]]:
    """Takes an operation's label, and another document where it is not ours; gives the number of requests.

    One connection for all: to make one for each request costs more than the request.
    """
    with requests.Session() as session:
        session.trust_env = False

        def hold(label: str, promised: dict[str, Any] | None = None) -> int:
            return held(ours() if promised is None else schemathesis.openapi.from_dict(promised), label, url, session)

        yield hold


@cache
def ours() -> BaseSchema:
    """Our document."""
    return schemathesis.openapi.from_dict(shortened(document()))


def shortened(part: Any) -> Any:
    """The document, its longest texts of a length that is quick to make: a million characters are no body at all."""
    if isinstance(part, list):
        return [shortened(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {name: 20_000 if name == "maxLength" and each == LONGEST else shortened(each) for name, each in part.items()}


def held(schema: BaseSchema, label: str, url: str, session: requests.Session) -> int:
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
