"""How the tests themselves run: what is of a group in one process."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("of one")
def test_the_group_of_a_test_is_told_to_who_hands_out_the_tests(request: pytest.FixtureRequest) -> None:
    are_grouped = getattr(request.config.option, "loadgroup", False)
    assert request.node.nodeid.endswith("@of one") is are_grouped
