"""A flood of jobs from one tenant: refused with the time to come again; others are served, and nothing grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from journeys.flood import Plan, run

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(240)]


async def test_a_flood_of_one_tenant_is_bounded_and_another_is_served(tmp_path: Path) -> None:
    report = await run(Plan(), tmp_path)
    print(report)
    report.check()
