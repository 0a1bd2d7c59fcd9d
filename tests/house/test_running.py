"""How the tests themselves run: what is of a group in one process, and each process with ports of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daemon import BLOCK, free_port

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.xdist_group("of one")
def test_the_group_of_a_test_is_told_to_who_hands_out_the_tests(request: pytest.FixtureRequest) -> None:
    are_grouped = getattr(request.config.option, "loadgroup", False)
    assert request.node.nodeid.endswith("@of one") is are_grouped


def test_no_two_processes_of_tests_are_given_the_same_port() -> None:
    """Or one takes that of another's server which is just killed, to be started anew."""
    ours = {free_port() for _ in range(2 * BLOCK)}
    asking = f"import daemon; print(*daemon.free_ports(2 * {BLOCK}))"
    done = subprocess.run([sys.executable, "-c", asking], cwd=TESTS, capture_output=True, check=True)
    theirs = set(map(int, done.stdout.split()))
    assert 0.9 * BLOCK < len(ours) < BLOCK
    assert 0.9 * BLOCK < len(theirs) < BLOCK
    assert not ours & theirs
