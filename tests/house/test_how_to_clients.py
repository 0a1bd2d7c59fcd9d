"""The page about clients: its lines are code, and the settings of Codex are a file that can be read."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "clients.md").read_text()


def test_the_lines_for_python_are_python() -> None:
    rows = re.findall(r"^\| .+", PAGE.partition("## JavaScript")[0], re.MULTILINE)[2:]
    lines = [re.findall(r"`([^`]+)`", row.split(" | ")[3])[0] for row in rows]
    assert len(lines) > 20
    for line in lines:
        ast.parse(f"{line}\ndef f(): ..." if line.startswith("@") else line)


def test_the_settings_of_codex_can_be_read() -> None:
    [block] = re.findall(r"```toml\n(.+?)```", PAGE, re.DOTALL)
    settings = tomllib.loads(block)
    assert settings["model_provider"] in settings["model_providers"]
