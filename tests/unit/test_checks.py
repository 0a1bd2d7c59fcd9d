"""What a server and a worker log before they start: once, a line each, of what may not be meant."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from built import settings_for
from loquent.checks import SERVE, WORKER, check, doubts

SECRET = "a secret of thirty-two bytes and more"
POSTGRES = "postgresql://ann@127.0.0.1:1/x"


def told(folder: Path, program: str = SERVE, **environ: str) -> list[str]:
    """What is doubted of these settings."""
    return [each.what for each in doubts(settings_for(folder, **environ), program, environ, folder)]


@pytest.mark.parametrize("store", [POSTGRES, "dynamodb:loquent"])
def test_a_secret_of_one_folder_is_told_of_beside_a_store_that_others_share(tmp_path: Path, store: str) -> None:
    [said] = told(tmp_path, LOQUENT_STORE=store)
    assert said.startswith(f"LOQUENT_SECRET is not set: {tmp_path}/data/secret signs access tokens")
    assert not told(tmp_path, LOQUENT_STORE=store, SECRET_KEY=SECRET)
    assert not told(tmp_path, WORKER, LOQUENT_STORE=store), "a worker gives no tokens"


@pytest.mark.parametrize("store", ["memory:", "sqlite:////srv/x.db"])
def test_a_store_of_this_machine_needs_no_secret_from_outside(tmp_path: Path, store: str) -> None:
    assert not told(tmp_path, LOQUENT_STORE=store)


def test_a_misspelt_setting_is_told_with_the_nearest_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    environ = {"LOQUENT_MODEL_S": "x", "LOQUENT_QQ": "y", "PATH": "/bin", "LOQUENT_MODELS": ""}
    environ |= {f"LOQUENT_API_{each}": "tcp://10.0.0.1:80" for each in ("PORT", "SERVICE_HOST", "PORT_80_TCP_ADDR")}
    for program in (SERVE, WORKER):
        caplog.clear()
        check(settings_for(tmp_path, LOQUENT_STORE=""), program, environ, tmp_path)
        assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
            (logging.WARNING, "LOQUENT_MODEL_S is set, and is no setting; perhaps LOQUENT_MODELS is meant"),
            (logging.WARNING, "LOQUENT_QQ is set, and is no setting; docs/settings.md lists them all"),
        ]


def test_lines_of_an_env_file_that_say_nothing_are_told_by_their_number_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["# ours", "", "LOQUENT_SECRET s3cret", 'A="b', 'c"', "PORT=1", "LOQUENT_MODEL", "", "x y=z", "E="]
    (tmp_path / ".env").write_text("\n".join(lines))
    said = told(tmp_path)
    assert said == [f"line {n} of {tmp_path}/.env cannot be read and is passed over" for n in (3, 7, 9)]
    assert not caplog.records, "nobody else speaks of it"


def test_several_processes_are_told_what_they_do_not_share(tmp_path: Path) -> None:
    rows = '[[model]]\nname = "small"\nengine = "llama"\nid = "small.gguf"\n'
    (tmp_path / "llama.toml").write_text(rows)
    ours = {"LOQUENT_WORKERS": "3", "LOQUENT_STORE": "", "LOQUENT_MODELS": str(tmp_path / "llama.toml")}
    rates, weights = told(tmp_path, **ours)
    assert rates.startswith("each of 3 processes counts rates for itself")
    assert weights.startswith("each of 3 processes loads small for itself")
    assert not told(tmp_path, **{**ours, "LOQUENT_WORKERS": "1"})
