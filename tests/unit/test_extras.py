"""What a hint says to install is installed where the program runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from loquent.ports.extras import install


def test_the_pip_of_a_hint_is_the_one_of_the_environment_that_runs() -> None:
    *command, verb, what = shlex.split(install("s3"))
    assert (verb, what) == ("install", "loquent[s3]")
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert sys.prefix in said


@pytest.mark.parametrize(("pip", "said"), [("pip", "bin/pip"), ("other", "bin/python -m pip")])
def test_it_is_named_from_where_the_reader_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: str, said: str
) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / pip).touch()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path)
    assert install("s3") == f'.venv/{said} install "loquent[s3]"'
    (tmp_path / "else where").mkdir()
    for elsewhere in (folder, tmp_path / "else where"):
        monkeypatch.chdir(elsewhere)
        assert install("s3") == f'{tmp_path}/.venv/{said} install "loquent[s3]"'
