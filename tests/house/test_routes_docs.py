"""The page of routes says the truth about who may call: each route is called by somebody unknown."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from loquent.settings import read
from loquent.web.app import create_app
from loquent.wiring import build

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).resolve().parents[2] / "docs" / "routes.md"


def rows() -> list[tuple[str, str, str]]:
    """Methods, path and who may call, as the page has them."""
    return re.findall(r"^\| ([A-Z ]+) \| `([^`]+)` \| (known|anybody|administrators) \|", PAGE.read_text(), re.M)


@pytest.fixture
async def stranger(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody without an account, where that is not allowed."""
    models = tmp_path / "models.toml"
    models.write_text('[[model]]\nname = "echo"\nengine = "echo"\nid = "echo"\n')
    given = {"DATA_DIR": str(tmp_path), "STORE": "memory:", "ANONYMOUS": "off", "MODELS": str(models)}
    services = build(read({f"LOQUENT_{name}": value for name, value in given.items()}))
    await services.open(works=False)
    transport = httpx2.ASGITransport(app=create_app(services), client=("127.0.0.1", 1))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client
    finally:
        await services.close()


async def test_known_callers_are_wanted_exactly_where_the_page_says(stranger: httpx2.AsyncClient) -> None:
    assert {who for _, _, who in rows()} == {"known", "anybody", "administrators"}
    wrong = []
    for methods, path, who in rows():
        bare = re.sub(r"\{[^}]*\}", "x", path)
        for spelled in (bare, f"{bare}/") if bare != "/" else (bare,):
            for method in methods.split():
                answer = await stranger.request(method, spelled)
                if (answer.status_code == 401) != (who != "anybody"):
                    wrong.append(f"{method} {spelled}: {who}, answers {answer.status_code}")
    assert wrong == []


async def test_a_path_that_is_not_on_the_page_is_not_found(stranger: httpx2.AsyncClient) -> None:
    assert (await stranger.get("/api/v1/nothing-here")).status_code == 404
