"""The whole application in this process: memory store, echo and extractive models, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from built import built
from loquent import settings
from loquent.settings import Settings
from loquent.web.app import create_app

MODELS = """
[[model]]
name = "echo"
engine = "echo"
id = "echo"

[[model]]
name = "extractive"
engine = "extractive"
id = "extractive"
abilities = ["summary"]
"""


Serving = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def app_environ(tmp_path: Path) -> dict[str, str]:
    """The environment of the application under test."""
    models = tmp_path / "models.toml"
    models.write_text(MODELS, "utf-8")
    return {
        "LOQUENT_STORE": "memory:",
        "LOQUENT_DATA_DIR": str(tmp_path / "data"),
        "LOQUENT_MODELS": str(models),
        "LOQUENT_SECRET": "a secret of the tests, 32 bytes or more",
    }


@pytest.fixture
def app_settings(app_environ: dict[str, str]) -> Settings:
    return settings.read(app_environ)


@pytest.fixture
def serving(app_environ: dict[str, str]) -> Serving:
    """``async with serving(LOQUENT_ANONYMOUS="off") as client``: the same with other settings."""

    def serve(**environ: str) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        return client_of(settings.read(app_environ | environ))

    return serve


@pytest.fixture
async def client(app_settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application, with its services open."""
    async with client_of(app_settings) as opened:
        yield opened


@asynccontextmanager
async def client_of(found: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    services = built(found)
    await services.open()
    try:
        transport = httpx2.ASGITransport(create_app(services))
        async with httpx2.AsyncClient(transport=transport, base_url="http://loquent") as opened:
            yield opened
    finally:
        await services.close()
