"""Our counters and histograms, read by Prometheus as the library's own are."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from loquent.services.tallies import Spread, Tally

BUCKETS = (0.001, 0.5, 1, 60)


def told(registry: CollectorRegistry) -> list[str]:
    """The samples, without when the library's own began."""
    return [line for line in generate_latest(registry).decode().splitlines() if not re.search(r"_created\b", line)]


def test_a_tally_reads_as_the_librarys_counter() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    for made in (
        Tally("x_things", "Things.", ("a", "b"), registry=ours),
        Counter("x_things", "Things.", ("a", "b"), registry=theirs),
    ):
        made.labels("1", 'q"\n').inc()
        made.labels("1", 'q"\n').inc(41)
        made.labels("2", "").inc(0)
    assert told(ours) == told(theirs)
    assert "42.0" in told(ours)[2]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.0011, 0.5, 1.0, 59.9, 60.0, 61.0])
def test_a_spread_reads_as_the_librarys_histogram(seconds: float) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    for made in (
        Spread("x_seconds", "Times.", ("route",), buckets=BUCKETS, registry=ours),
        Histogram("x_seconds", "Times.", ("route",), buckets=BUCKETS, registry=theirs),
    ):
        made.labels("/a").observe(seconds)
        made.labels("/a").observe(0.25)
        made.labels("/b").observe(seconds)
    assert told(ours) == told(theirs)
