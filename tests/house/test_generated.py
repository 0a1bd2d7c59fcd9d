"""The generated pages are fresh, and the check that says so sees a stale one and a file without a first line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def generate(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """docs/generate.py of a copy of the project, on that copy."""
    return subprocess.run(
        [sys.executable, root / "docs" / "generate.py", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},  # compiled already, and the same
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project's files as git has them, in a repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def test_the_generated_pages_are_fresh() -> None:
    done = generate(ROOT, "--check")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nThe generated pages are stale: run `make docs`."


def test_a_stale_page_is_seen_and_mended(clone: Path) -> None:
    (clone / ".env.example").write_text("# old\n")
    (clone / "docs" / "extra.md").write_text("# A page that the map does not know\n")
    seen = generate(clone, "--check")
    assert seen.returncode == 1
    assert {line.partition(" ")[0] for line in seen.stdout.splitlines()} >= {".env.example", "docs/map.md"}
    assert generate(clone).returncode == 0
    assert "A page that the map does not know" in (clone / "docs" / "map.md").read_text()
    assert (clone / ".env.example").read_text() != "# old\n"


def test_a_file_that_does_not_say_what_it_is_stops_the_map(clone: Path) -> None:
    (clone / "src" / "loquent" / "silent.py").write_text("x = 1\n")
    done = generate(clone, "--check")
    assert done.returncode == 1
    assert "src/loquent/silent.py does not say what it is" in done.stderr
