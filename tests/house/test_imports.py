"""Importing does nothing and is cheap: heavy libraries come only with the backend that uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    *("torch", "transformers", "xllamacpp", "numpy", "openai", "anthropic"),  # models
    *("botocore", "aiobotocore", "boto3", "pymongo", "psycopg", "redis", "celery"),  # clouds, servers, brokers
    *("sqlalchemy", "alembic", "aiohttp", "pypdf", "docx", "lxml", "PIL"),  # one adapter each
    *("rapidocr", "onnxruntime", "cv2"),  # a process of its own
    *("pwdlib", "argon2"),  # the first password
    *("google", "requests"),  # traces; of OpenTelemetry itself FastAPI brings a part
}


def loaded(statement: str, folder: Path) -> tuple[set[str], int]:
    """The packages that a statement brings in, and the threads that run after it, in a process of its own."""
    tell = "import json, sys, threading; print(json.dumps([sorted(sys.modules), threading.active_count()]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{tell}"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    modules, threads = json.loads(done.stdout.splitlines()[-1])
    return {name.partition(".")[0] for name in modules}, threads


def test_the_web_application_comes_without_heavy_libraries(tmp_path: Path) -> None:
    packages, _ = loaded("import loquent.web.app", tmp_path)
    assert "fastapi" in packages
    assert not packages & HEAVY


def test_the_command_line_comes_without_the_web_and_heavy_libraries(tmp_path: Path) -> None:
    packages, _ = loaded("import loquent.cli", tmp_path)
    assert not packages & (HEAVY | {"fastapi", "starlette", "granian", "uvicorn"})


@pytest.mark.parametrize(("wish", "comes"), [("auto", False), ("on", True)])
def test_the_library_of_traces_comes_only_where_traces_are_on(tmp_path: Path, wish: str, comes: bool) -> None:
    built = f"build(settings.read({{'LOQUENT_TRACES': {wish!r}, 'LOQUENT_DATA_DIR': '.'}}))"
    packages, _ = loaded(f"from loquent import settings\nfrom loquent.wiring import build\n{built}", tmp_path)
    assert bool(packages & {"google", "requests"}) is comes


def test_importing_writes_no_file_and_starts_no_thread(tmp_path: Path) -> None:
    _, threads = loaded("import loquent.web.app, loquent.cli", tmp_path)
    assert threads == 1
    assert not list(tmp_path.iterdir())


def test_a_heavy_import_is_seen(tmp_path: Path) -> None:
    packages, _ = loaded("import loquent\ndef within(): import aiohttp\nwithin()", tmp_path)
    assert packages & HEAVY >= {"aiohttp"}
