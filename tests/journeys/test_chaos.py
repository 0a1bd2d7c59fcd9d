"""Jobs while the server is killed and a worker freezes: none lost, none with two results; and what the fence is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from journeys.chaos import Plan, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(240)]


async def test_200_jobs_outlive_20_kills_and_a_worker_that_freezes(tmp_path: Path, free_port: int) -> None:
    report = await Rig(Plan(jobs=200, kills=20, freezes=3), tmp_path, free_port).run()
    print(report)
    report.check()
    assert report.at_failpoints >= 5
    assert report.freezes >= 1


async def test_without_the_fence_the_same_finds_jobs_with_two_results(tmp_path: Path, free_port: int) -> None:
    report = await Rig(Plan(jobs=40, kills=1, freezes=1, fenced=False, words=(120,)), tmp_path, free_port).run()
    assert report.taken_over >= 1
    assert report.counted[0] > report.plan.jobs
    with pytest.raises(AssertionError, match="results of 40 jobs"):
        report.check()
