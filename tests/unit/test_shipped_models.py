"""The models that come with Loquent: those that lack something here are left out, and it is told how to get it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from built import ANN, wanted
from forking import ran
from loquent import settings
from loquent.domain.errors import Unavailable
from loquent.domain.evolve import evolve
from loquent.ports.extras import install
from loquent.settings import Settings
from loquent.wiring import build
from loquent.wiring.rows import left_out, model_rows

pytestmark = pytest.mark.anyio
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
BARE = """
import os, sys
sys.modules["xllamacpp"] = None  # as in a plain install
from loquent.domain.errors import Misconfigured
from loquent.settings.environment import load_settings
from loquent.wiring import build
try:
    print(*build(load_settings(dict(os.environ))).models.offers)
except Misconfigured as refused:
    print(refused.message)
"""
OWN = '[[model]]\nname = "mine"\nengine = "llama"\nid = "mine.gguf"\n'


def shipped(folder: Path, **environ: str) -> Settings:
    """Settings that name no file of rows."""
    return settings.read({"LOQUENT_DATA_DIR": str(folder / "data"), "LOQUENT_STORE": "memory:", **environ})


def names(found: Settings) -> list[str]:
    return [row.name for row in model_rows(found)]


async def test_without_weights_the_rest_is_served_and_one_line_says_how_to_get_them(tmp_path: Path) -> None:
    found = shipped(tmp_path)
    assert names(found) == ["extractive", "echo", "ocr"]
    [line] = left_out(found)
    assert "smollm2 (get it by: loquent models pull smollm2)" in line
    services = build(found)
    await services.open()
    try:
        with pytest.raises(Unavailable, match="loquent models pull"):
            await services.generations.begin(ANN, wanted("word"))
        begun = await services.generations.begin(ANN, evolve(wanted("word"), model="echo"))
        assert (await services.generations.collect(begun)).now()[0].status == "completed"
        with pytest.raises(Unavailable, match="no model is configured that makes embeddings"):
            await services.embeddings.embed(ANN, ["word"], surface="api")
        assert (await services.embeddings.embed(ANN, ["word"], surface="api", model="echo")).vectors
    finally:
        await services.close()


def test_with_its_weights_the_model_is_there_and_of_one_that_nobody_fetched_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).touch()
    found = shipped(tmp_path, LOQUENT_MODELS_DIR=str(tmp_path))
    assert names(found) == ["smollm2", "extractive", "echo", "ocr"]
    assert left_out(found) == []
    assert "gemma3-270m" in [row.name for row in model_rows(found, every=True)]


@pytest.mark.parametrize("extra", [{"LOQUENT_MODEL": "smollm2"}, {"LOQUENT_MODEL": "echo"}, {"OPENAI_API_KEY": "sk-x"}])
def test_of_one_that_is_named_or_not_needed_its_own_answers_tell(tmp_path: Path, extra: dict[str, str]) -> None:
    found = shipped(tmp_path, **extra)
    assert ("smollm2" in names(found)) == (extra.get("LOQUENT_MODEL") == "smollm2")
    assert left_out(found) == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "extractive echo ocr"),
        ({"LOQUENT_MODEL": "smollm2"}, 'pip install "loquent[llama]"'),
        ({"LOQUENT_MODELS": "own.toml"}, 'pip install "loquent[llama]"'),
    ],
)
def test_without_the_engine_shipped_rows_are_left_out_and_wanted_ones_name_the_extra(
    tmp_path: Path, environ: dict[str, str], said: str
) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    known = {"PYTHONPATH": ":".join(sys.path), "LOQUENT_DATA_DIR": str(tmp_path), "LOQUENT_MODELS_DIR": str(tmp_path)}
    (tmp_path / WEIGHTS).touch()
    done = subprocess.run(
        [sys.executable, "-c", BARE], cwd=tmp_path, env={**known, **environ}, capture_output=True, text=True, timeout=60
    )
    assert said in done.stdout, done.stderr


def test_what_the_plain_install_lacks_is_told_with_the_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("xllamacpp", "rapidocr"):
        monkeypatch.setitem(sys.modules, package, None)
    [line] = left_out(shipped(tmp_path))
    assert f"smollm2 (get it by: {install('llama')} and loquent models pull smollm2)" in line
    assert f"ocr (get it by: {install('ocr')})" in line


@pytest.mark.parametrize(
    ("asked", "code", "out", "told"),
    [
        ([], 1, "", r"left out until the next start: smollm2 \(get it by: \S+ -m loquent models pull smollm2\)"),
        (["--model", "smollm2"], 1, "", r"smollm2 is left out; get it by: \S+ -m loquent models pull smollm2"),
        (["--model", "echo"], 0, "word\n", ""),
    ],
)
def test_the_command_line_says_who_is_left_out(
    tmp_path: Path, asked: list[str], code: int, out: str, told: str
) -> None:
    done = ran("loquent", "generate", "word", *asked, folder=tmp_path, environ={"LOQUENT_DATA_DIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert re.search(told, done.stderr)
    assert bool(told) == ("smollm2" in done.stderr)
