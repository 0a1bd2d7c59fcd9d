"""Uploads while the server is killed: no blob without a row after the sweep, no row without its blob at any time."""

from __future__ import annotations

from pathlib import Path

import pytest

from journeys.uploads import Plan, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(240)]


async def test_30_uploads_that_are_killed_leave_nothing_that_does_not_belong(tmp_path: Path, free_port: int) -> None:
    report = await Rig(Plan(uploads=30), tmp_path, free_port).run()
    print(report)
    report.check()
    assert report.at_failpoints >= 2
    assert report.orphans + report.halves >= 1, "there was something to sweep"
    assert report.unswept, "without the sweep, the check sees what was left"
    assert report.checked >= 3
