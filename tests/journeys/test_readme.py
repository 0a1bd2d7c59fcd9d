"""The README's tour, executed: every command as it stands there, against a real server with the real model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from loquent.settings import Settings
from serving import served

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = "http://127.0.0.1:8000"
STEP = re.compile(r"```bash\n(.*?)```\n<!-- shows (.*?) -->", re.DOTALL)
MARK = "=== step"


def tour() -> list[tuple[str, str]]:
    """Each step's commands, and what its output must show."""
    text = (ROOT / "README.md").read_text("utf-8")
    part = text.partition("<!-- tour -->")[2].partition("<!-- end of tour -->")[0]
    steps = STEP.findall(part)
    assert part.count("```bash") == len(steps) > 5, "every step of the tour says what it shows"
    return steps


def run(script: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash, "the tour is written for bash"
    path = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        [bash, "-euo", "pipefail", "-c", script], cwd=ROOT, env=path, capture_output=True, text=True, timeout=100
    )


@pytest.mark.journey
@pytest.mark.model
def test_every_command_of_the_tour_does_what_the_readme_says(tmp_path: Path) -> None:
    models = Path(os.environ.get("LOQUENT_MODELS_DIR", ROOT / "data" / "models")).absolute()
    shipped = ROOT / "src" / "loquent" / "models.toml"
    with served(tmp_path, LOQUENT_MODELS=str(shipped), LOQUENT_MODELS_DIR=str(models)) as server:
        steps = tour()
        script = "\n".join(f"echo; echo '{MARK}'\n{commands}" for commands, _ in steps)
        done = run(script.replace(WRITTEN, server.url))
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    shown = done.stdout.split(MARK)[1:]
    for (commands, expected), output in zip(steps, shown, strict=True):
        assert expected in output, f"{commands}\ngave\n{output[-2000:]}"


def test_the_limits_that_the_readme_names_are_the_defaults() -> None:
    told = dict(re.findall(r"`(LOQUENT_LIMIT_[A-Z]+)` \((.+?)\)", (ROOT / "README.md").read_text("utf-8")))
    shown = {each.metadata["env"]: each.metadata["shown_default"] for each in fields(Settings)}
    assert len(told) == 4
    assert told == {name: shown[name] for name in told}


def test_a_command_that_fails_is_seen() -> None:
    assert run("curl -fsS http://127.0.0.1:9/nothing | sed s/a/b/").returncode != 0
