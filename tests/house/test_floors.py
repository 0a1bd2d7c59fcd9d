"""The floors hold: each imports only from below, with no exception, and the check that says so bites."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = ROOT / "pyproject.toml"


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """import-linter with the project's own contracts, on the package in this folder."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", PYPROJECT],
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"},
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_import_looks_down() -> None:
    done = lint_imports(ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_import_is_excepted() -> None:
    tool = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]
    assert not tool.get("exclude_type_checking_imports")
    for contract in tool["contracts"]:
        assert not contract.get("ignore_imports"), contract["name"]
        assert not contract.get("exhaustive_ignores"), contract["name"]


def test_every_room_stands_on_a_floor() -> None:
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each for each in contracts if each["type"] == "layers")
    assert layers["exhaustive"]
    assert layers["containers"] == ["loquent"]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("domain/users.py", "from loquent.services import limits"),  # up
        ("services/limits.py", "from loquent.limiters import memory"),  # sideways
        ("services/limits.py", "import sqlalchemy"),  # a library where none may be
        ("domain/users.py", "def later() -> None:\n    from loquent import ports"),  # hidden in a function
    ],
)
def test_a_forbidden_import_is_seen(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(ROOT / "src" / "loquent", tmp_path / "loquent", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "loquent" / file).open("a") as changed:
        changed.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
