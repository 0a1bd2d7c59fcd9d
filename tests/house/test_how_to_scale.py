"""The guide to many processes: its settings are taken as they stand there, and what it names is there."""

from __future__ import annotations

import re

import pytest

from deploying import DEPLOY, ROOT, known
from loquent.cli.serve import HEADER_SECONDS
from loquent.settings import Settings, read
from loquent.web.sse import QUIET

PAGE = (ROOT / "docs/how-to/scale.md").read_text()
STEPS = re.findall(r"```env\n(.+?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", STEPS, ids=lambda block: block.partition("=")[0])
def test_the_settings_of_a_step_can_be_set(block: str) -> None:
    environ = dict(line.split("=", 1) for line in block.splitlines())
    assert set(environ) <= known()
    assert read(environ) != Settings()


def test_the_steps_together_are_what_compose_sets() -> None:
    steps = {line.partition("=")[0] for block in STEPS for line in block.splitlines()}
    assert {name for name in steps if f"{name}:" not in (DEPLOY / "compose.yaml").read_text()} == set()


def test_what_the_guide_names_is_there() -> None:
    named = {each.rstrip("/") for each in re.findall(r"\bdeploy/[\w./-]+\w/?", PAGE)} - {"deploy/.env"}
    named -= {each for each in named if each.endswith("overlays/mine")}  # the reader's own
    links = {f"docs/how-to/{each}" for each in re.findall(r"\]\((?!http)([^)]+)\)", PAGE)}
    assert len(named) >= 5 and len(links) >= 3
    assert [each for each in named | links if not (ROOT / each).exists()] == []
    assert [name for name in re.findall(r"\bLOQUENT_[A-Z_]*[A-Z]\b", PAGE) if name not in known()] == []


def test_the_seconds_of_the_guide_are_those_of_the_program() -> None:
    settings = Settings()
    for name, value in (
        ("LOQUENT_LEASE_SECONDS", settings.lease_seconds),
        ("LOQUENT_SWEEP_SECONDS", settings.sweep_seconds),
        ("LOQUENT_STOP_SECONDS", settings.stop_seconds),
    ):
        assert f"`{name}` ({value:g})" in PAGE
    assert f"Servers close theirs after {HEADER_SECONDS} s" in PAGE
    assert f"broken every {QUIET:g} s by a comment" in PAGE
