"""The Makefile says of every command what it does, and every command it promises is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE))


def make(*arguments: str) -> str:
    """What make says; it must end well."""
    done = subprocess.run(["make", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_has_a_line_of_help() -> None:
    helped = set(re.findall(r"^([a-z][a-z-]*):.*?  ## [A-Z].{10,}$", MAKEFILE, re.MULTILINE))
    assert helped == COMMANDS


def test_make_alone_lists_every_command() -> None:
    listed = set(re.findall(r"^  make ([a-z-]+) ", make("--no-print-directory"), re.MULTILINE))
    assert listed == COMMANDS
    assert {"serve", "test", "check", "bench", "docs", "lock", "model", "format", "clean"} <= listed


def test_every_command_is_phony() -> None:
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert {name for line in phony for name in line.split()} == COMMANDS


def test_cleaning_leaves_the_data_alone() -> None:
    removed = make("--dry-run", "clean").split()
    assert ".venv" in removed
    assert not {"data", "data/", "."} & set(removed)


def test_ci_runs_what_anybody_would() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make check", "make test"]
