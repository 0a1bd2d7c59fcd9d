"""Messages name commands as they work in the shell that reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from loquent.checks import warn
from loquent.cli import app
from loquent.ports.shell import COMMANDS, as_called
from loquent.settings import read
from loquent.wiring import build

SCRIPT = f"#!{sys.executable}\nimport sys\nfrom loquent.cli import app\nsys.exit(app())\n"
PYTHON = Path(sys.executable)


def script(folder: Path, text: str = SCRIPT) -> Path:
    """The program as an install puts it there."""
    folder.mkdir(parents=True)
    (folder / "loquent").write_text(text)
    (folder / "loquent").chmod(0o755)
    return folder


def test_every_command_is_known() -> None:
    assert set(COMMANDS) == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("typed", "path", "told"),
    [
        (".venv/bin/loquent", "", ".venv/bin/loquent"),
        (".venv/bin/loquent", "another", ".venv/bin/loquent"),
        ("loquent", ".venv/bin", "loquent"),
        ("'../over there/.venv/bin/loquent'", "", "'../over there/.venv/bin/loquent'"),
        ("python -m loquent", str(PYTHON.parent), "python -m loquent"),
    ],
)
def test_a_command_that_is_told_works_as_it_is_told(tmp_path: Path, typed: str, path: str, told: str) -> None:
    here = tmp_path / "over there"
    script(here / ".venv" / "bin")
    script(here / "another", "#!/bin/sh\nexit 9\n")
    environ = {
        "PATH": os.pathsep.join([str(here / path) if path else "/nowhere", "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LOQUENT_DATA_DIR": str(tmp_path / "data"),
    }

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S602  (as people type it)
            command, shell=True, cwd=here, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    said = run(f"{typed} store check").stderr
    assert f"is not there yet: `{told} store upgrade` makes it" in said
    done = run(said.split("`")[1] + " --help")
    assert (done.returncode, "Make the schema" in done.stdout) == (0, True), done.stderr


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the program is called in this folder, where no shell finds it by its name."""
    script(tmp_path / ".venv" / "bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/loquent"])
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("LOQUENT_DATA_DIR", str(tmp_path / "data"))
    return ".venv/bin/loquent "


def test_errors_and_the_doctor_say_it(told: str, tmp_path: Path) -> None:
    rows = tmp_path / "models.toml"
    rows.write_text('[[model]]\nname = "parrot"\nengine = "echo"\nid = "echo"\n')
    environ = {"LOQUENT_MODELS": str(rows), "HOST": "0.0.0.0"}
    done = CliRunner().invoke(app, ["generate", "hello", "--as", "bob"], env=environ)
    assert f"make one with: {told}users add bob" in done.stderr
    done = CliRunner().invoke(app, ["doctor"], env=environ)
    assert f"set LOQUENT_REGISTRATION=off; {told}users add makes accounts then" in done.stdout


def test_a_start_says_it(told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    services = build(read({"LOQUENT_DATA_DIR": str(tmp_path)}))  # without weights
    services.passwords.close()
    warn(services)
    assert f"get it by: {told}models pull" in caplog.text
    assert as_called(as_called("let `loquent serve` run")) == f"let `{told}serve` run"


def test_what_is_no_command_stays(told: str) -> None:
    for text in ("loquent: no", "loquent[s3]", "loquent.serve", "celery -A loquent.worker worker", "a loquent server"):
        assert as_called(text) == text
