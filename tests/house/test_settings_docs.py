"""Settings and what is written about them agree, both ways."""

from __future__ import annotations

import re
from dataclasses import fields
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values

from loquent.settings import Settings, read

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for each in fields(Settings) for name in (each.metadata["env"], *each.metadata["aliases"])]


def test_no_two_settings_share_a_name() -> None:
    assert sorted(NAMES) == sorted(set(NAMES))


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda each: each.name)
def test_every_setting_says_what_it_is(setting: object) -> None:
    meta = setting.metadata  # type: ignore[attr-defined]
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+", meta["env"])
    assert re.fullmatch(r"[A-Z].{10,}\.", meta["about"])
    assert meta["takes"]
    assert meta["group"]


def test_the_example_file_uncommented_is_the_default() -> None:
    example = (ROOT / ".env.example").read_text()
    values = dotenv_values(stream=StringIO(re.sub(r"^#(?=[A-Za-z_]+=)", "", example, flags=re.MULTILINE)))
    assert set(values) == {each.metadata["env"] for each in fields(Settings)}
    assert read({name: value or "" for name, value in values.items()}) == Settings()


def test_every_name_is_on_the_settings_page() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


def test_every_setting_that_is_written_about_exists() -> None:
    written = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml")]
    for folder in ("docs", "src", "bench"):
        written += [path for path in (ROOT / folder).rglob("*") if path.suffix in {".md", ".py", ".html", ".toml"}]
    written = [path for path in written if path.is_file()]
    unknown = {
        f"{name} in {path.relative_to(ROOT)}"
        for path in written
        for name in re.findall(r"\bLOQUENT_[A-Z][A-Z0-9_]*[A-Z0-9]\b", path.read_text())
        if name not in NAMES
    }
    assert not unknown
