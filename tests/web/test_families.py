"""The five families' tables and their tests agree: a row without a case fails, and so does a case without its row."""

from __future__ import annotations

from importlib import import_module

import families
import pytest

COUNTS = {"textgen": 5, "summaries": 8, "documents": 4, "images": 4, "chat": 3}
"""Calls in each table; a document's three addresses count as three."""


@pytest.mark.parametrize("family", COUNTS)
def test_every_row_of_a_table_has_its_cases_and_every_case_its_row(family: str) -> None:
    rows = families.rows(family)
    assert len(rows) == COUNTS[family]
    cases = {case.call.rstrip("/") for case in import_module(f"test_family_{family}").CASES}
    assert cases == {row.rstrip("/") for row in rows}


def test_the_tables_are_found_at_all() -> None:
    assert families.TABLE.read_text().count("\n## ") >= len(COUNTS)
    with pytest.raises(AssertionError):
        families.rows("nobody")


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"a": 1, "b": 2}, {"a": int}),
        ({"a": 1}, {"a": int, "b": int}),
        ({"a": True}, {"a": int}),
        ({"a": None}, {"a": str}),
        ([1, "x"], [int]),
        ([1], [1, 2]),
        ("x1", "x"),
        (200, True),
    ],
)
def test_a_shape_that_does_not_fit_is_seen(value: object, shape: object) -> None:
    assert list(families.differences(value, shape))
