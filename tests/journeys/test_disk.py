"""A full disk under a real server: new work is refused before the database fails, the rest goes on, and it heals."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from journeys.disk import command
from serving import SOURCE

pytestmark = [pytest.mark.journey, pytest.mark.timeout(240)]
PATHS = os.pathsep.join((str(SOURCE), str(SOURCE.parent / "tests")))


def test_on_a_full_disk_what_is_there_can_be_read_and_removed_and_all_heals(tmp_path: Path) -> None:
    told = subprocess.run(
        [*command(tmp_path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": PATHS},
        capture_output=True,
        text=True,
        check=False,
    )
    print(told.stdout)
    assert told.returncode == 0, told.stderr[-3000:]
    assert "healed" in told.stdout
