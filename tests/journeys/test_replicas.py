"""Two replicas behind nginx: streams as they come, followed and resumed anywhere; what an operator says holds."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from journeys.replicas import p99, run
from postgres_server import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(180)]
SOON = 10.0  # seconds; the promise is one, on a machine that has time


async def test_streams_go_on_anywhere_and_administration_reaches_all(tmp_path: Path, postgres: PostgresServer) -> None:
    lags, comments = await run(tmp_path, postgres, silence=16, seconds=3, rounds=1)
    print(lags)
    assert min(comments) >= 1, "no silence is longer than 15 s on the wire"
    through, past = lags.found["gaps through nginx"], lags.found["gaps past nginx"]
    assert abs(statistics.median(through) - statistics.median(past)) < 0.01
    assert p99(through) < p99(past) + 1, "nothing waits in nginx for more"
    for what in (
        "following elsewhere",
        "a cancel from elsewhere",
        "a model changed elsewhere",
        "streams after a revocation",
    ):
        assert lags.worst(what) < SOON, lags
