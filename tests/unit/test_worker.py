"""A worker says when it begins, when it is told to stop and when it has, as a server does."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from built import settings_for
from loquent.wiring import build
from loquent.worker import work

pytestmark = pytest.mark.anyio


async def test_a_worker_says_that_it_stops_and_that_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "loquent.worker")
    told = asyncio.Event()
    working = asyncio.create_task(work(build(settings_for(tmp_path, LOQUENT_STOP_SECONDS="3")), told))
    async with asyncio.timeout(30):
        while not caplog.records:
            await asyncio.sleep(0.01)
        told.set()
        await working
    said = [(each.getMessage(), each.fields) for each in caplog.records if each.name == "loquent.worker"]  # type: ignore[attr-defined]
    assert said == [("taking jobs", {"slots": 8}), ("stopping", {"running": 0, "seconds": 3.0}), ("stopped", {})]
