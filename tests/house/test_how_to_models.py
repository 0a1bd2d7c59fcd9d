"""The rows that the guide to models shows are rows: each is read and connected as it stands there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from loquent.domain.models import from_rows
from loquent.engines import ENGINES, Options, connect
from loquent.settings import read

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "models.md").read_text()
BLOCKS = re.findall(r"```toml\n(.+?)```", PAGE, re.DOTALL)
REMOTE = ("openai", "anthropic")


@pytest.mark.parametrize("block", BLOCKS, ids=[re.findall(r'name = "(.+?)"', block)[0] for block in BLOCKS])
async def test_the_rows_of_the_guide_can_be_used(tmp_path: Path, block: str) -> None:
    rows = from_rows(tomllib.loads(block), "the guide")
    assert rows
    keys = {name: "a key" for row in rows for name in (row.key_env, row.key_file) if name}
    for row in rows:
        engine = connect(row, Options(models_dir=tmp_path, keys=keys))
        if row.engine in REMOTE:
            await engine.open()
        await engine.close()


def test_the_guide_shows_the_engines_that_people_bring_models_for() -> None:
    shown = {row.engine for block in BLOCKS for row in from_rows(tomllib.loads(block), "the guide")}
    assert shown == {"openai", "anthropic", "llama", "transformers"} <= set(ENGINES)


def test_the_hosts_of_keys_are_written_as_the_setting_takes_them() -> None:
    (line,) = re.findall(r"^LOQUENT_KEY_HOSTS=(.+)$", PAGE, re.MULTILINE)
    assert read({"LOQUENT_KEY_HOSTS": line}).key_hosts == (
        ("OPENROUTER_API_KEY", "openrouter.ai"),
        ("OTHER_KEY", "llm.example.org"),
    )
