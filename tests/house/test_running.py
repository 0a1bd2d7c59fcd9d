"""How the tests themselves run: what is of a group in one process, and at full speed where no coverage is wanted."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.xdist_group("of one")
def test_the_group_of_a_test_is_told_to_who_hands_out_the_tests(request: pytest.FixtureRequest) -> None:
    are_grouped = getattr(request.config.option, "loadgroup", False)
    assert request.node.nodeid.endswith("@of one") is are_grouped


def test_where_nothing_is_measured_nothing_is_traced() -> None:
    assert sys.gettrace() is None
