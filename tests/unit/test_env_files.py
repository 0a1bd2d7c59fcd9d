"""The five families' .env files, as their projects have them, start Loquent as they are."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from asking import ask
from loquent import settings
from loquent.checks import SERVE, check, warn
from loquent.cli import findings
from loquent.domain.errors import Misconfigured, NotFound
from loquent.queues.celery import Celery
from loquent.settings.environment import load_settings
from loquent.web.app import create_app
from loquent.web.edge import Edge
from loquent.wiring import Services, build
from loquent.wiring.models import unknown_models
from loquent.wiring.rows import model_rows
from postgres_server import PostgresServer
from redis_server import RedisServer
from s3_server import BUCKET, S3Server, with_keys

pytestmark = pytest.mark.anyio
SAMPLES = Path(__file__).parents[1] / "samples" / "env"
FAMILIES = ("textgen", "summaries", "documents", "images", "chat")
NO_WEIGHTS = "models are left out until the next start"
WARNED = {
    "textgen": ["MODEL_NAME holds 'default-model'", "LLM_ID holds 'gpt2'", NO_WEIGHTS],
    "summaries": [
        "CELERY_RESULT_BACKEND is not used",
    ],
    "documents": ["MONGO_URI names mongodb", NO_WEIGHTS],
    "images": [NO_WEIGHTS],
    "chat": [],
}  # fmt: skip
SECRETS = ("s3cr3t", "p4ssw0rd", "sk-not-a-real-key", "wJalrXUtnFEMI", "django-insecure", "AKIA", "redis:6379")


@asynccontextmanager
async def started(folder: Path, family: str, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Edge, Services]]:
    """The application, with nothing set but the family's file and where data is kept."""
    written = (SAMPLES / f"{family}.env").read_text("utf-8")
    if (place := "@db:5432/summaries") in written:  # the host that the file names, as it stands here
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.database(owner="summarizer")
        written = written.replace(place, f"@{url.partition('@')[2]}")
    if (place := "//redis:6379") in written:
        found: RedisServer = request.getfixturevalue("redis")
        written = written.replace(place, f"//127.0.0.1:{found.port}")
    if f"AWS_BUCKET_NAME = {BUCKET}" in written:  # the bucket of that name, which its keys open, as it stands here
        bucket: S3Server = request.getfixturevalue("s3")
        monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        with_keys(monkeypatch, {"AWS_ENDPOINT_URL_S3": bucket.endpoint})
    (folder / ".env").write_text(written)
    async with built(folder) as made:
        yield made


@asynccontextmanager
async def built(folder: Path) -> AsyncIterator[tuple[Edge, Services]]:
    """What the file in the folder makes of it."""
    services = build(load_settings({"LOQUENT_DATA_DIR": str(folder / "data")}, folder))
    await services.open()
    try:
        yield create_app(services), services
    finally:
        await services.close()


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_file_starts_the_application_and_what_is_passed_over_is_told(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    async with started(tmp_path, family, request) as (app, services):
        answer = await ask(app, "GET", "/api/v1/health")
        assert (answer.status, answer.json()["status"]) == (200, "healthy")
        check(services.settings, SERVE, {"LOQUENT_DATA_DIR": str(tmp_path / "data")}, tmp_path)
        warn(services)
    told = [each.getMessage() for each in caplog.records if each.name == "loquent.settings"]
    assert [line for line, begins in zip(told, WARNED[family], strict=True) if not line.startswith(begins)] == []
    assert all(
        "\n" not in line and any(each in line for each in ("instead", "not used", "left out", "no model goes on"))
        for line in told
    )
    assert not [secret for secret in SECRETS if secret in caplog.text]


async def test_textgen(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with started(tmp_path, "textgen", request) as (_, services):
        found = services.settings
        assert found.store_url == f"sqlite:///{tmp_path}/data/text_generation.db"
        assert (tmp_path / "data" / "text_generation.db").exists()
        assert (found.token_minutes, services.accounts.token_seconds, found.algorithm) == (30, 1800, "HS256")
        assert (len(found.secret), found.log_level) == (64, "INFO")
        assert found.disable_loggers == ("uvicorn.access", "urllib3")
        with pytest.raises(NotFound, match="goes on from a prompt"):  # without weights; the fake gives nobody its word
            services.models.text_offer()
        assert all("no model goes on" in line for line in unknown_models(found, services.models))


async def test_summaries(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with started(tmp_path, "summaries", request) as (app, services):
        found = services.settings
        assert found.store_url.startswith("postgresql://summarizer:")
        assert (found.queue[-2:], found.limiter[:18]) == ("/1", "redis://127.0.0.1:")
        assert isinstance(services.queue, Celery)
        await services.limits.limiter.ready()
        assert found.log_number == 10
        assert {(rate.count, rate.seconds) for rate in services.limits.rules["summaries"]} == {(10, 60), (100, 3600)}
        assert found.host_names == ("localhost", "127.0.0.1", ".example.com")
        row = model_rows(found)[0]
        assert (row.name, row.engine, row.url) == ("gpt-3.5-turbo", "openai", "https://api.openai.com/v1")
        assert (row.defaults.max_tokens, row.defaults.temperature) == (150, 0.7)
        for host, status in (("api.example.com", 200), ("elsewhere.test", 421)):
            answer = await ask(app, "GET", "/api/v1/health", headers=[("host", host)], host=False)
            assert answer.status == status


async def test_documents(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with started(tmp_path, "documents", request) as (_, services):
        await services.blobs.ready()
        found = services.settings
        assert found.store_url == f"sqlite:///{tmp_path}/data/loquent.db"
        assert found.blobs_url == "s3://doc-reader-uploads?region=ap-south-1"
        assert found.ml_url == "http://127.0.0.1:9009/"
        assert (found.aws_region, found.aws_key_id[:4], found.aws_secret_key[:4]) == ("ap-south-1", "AKIA", "wJal")


async def test_images(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with started(tmp_path, "images", request) as (_, services):
        found = services.settings
        assert found.image_model_url == "http://127.0.0.1:8501/v1/predict"
        assert (found.aws_region, found.aws_key_id[:4], found.aws_secret_key[:4]) == ("us-east-1", "AKIA", "wJal")
        assert (len(found.secret), found.algorithm) == (48, "HS256")


async def test_chat(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with started(tmp_path, "chat", request) as (_, services):
        assert services.settings.secret.startswith("b1946ac9")
        assert services.models.default == "gpt-4o-mini"


def test_every_name_of_the_families_is_a_setting_or_told(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api-families.md").read_text("utf-8")
    said = [line.partition(" have: ")[2] for line in page.splitlines() if "ettings its users have: " in line]
    said += [
        line.partition("users have: ")[2] for line in page.splitlines() if "Settings that its users have: " in line
    ]
    names = {name.strip(" .").partition(" ")[0] for line in said for name in line.replace(" (", ",(").split(",")}
    names = {name for name in names if name.replace("_", "").isalnum() and name[0].isupper() and len(name) > 2}
    known = {name for each in fields(settings.Settings) for name in (each.metadata["env"], *each.metadata["aliases"])}
    assert len(names) >= 30
    assert names <= known | set(settings.ELSEWHERE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_short_secret_in_the_file_stops_the_start_with_one_line(tmp_path: Path, family: str) -> None:
    text = (SAMPLES / f"{family}.env").read_text("utf-8")
    name = "JWT_SECRET_KEY" if family == "images" else "SECRET_KEY"
    (tmp_path / ".env").write_text(f"{text}\n{name}=change-me\n")
    with pytest.raises(Misconfigured, match=f"^{name} holds a value of 9 bytes; it takes at least 32") as refused:
        load_settings({}, tmp_path)
    assert "change-me" not in refused.value.message


def test_the_doctor_tells_what_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SAMPLES / "summaries.env", tmp_path / ".env")
    monkeypatch.chdir(tmp_path)
    found = findings.configured(load_settings())
    doubts = [each.what for each in found if each.mark == findings.DOUBT]
    assert [line.split()[0] for line in doubts] == [
        "CELERY_RESULT_BACKEND",
    ]  # fmt: skip
    assert not [each for each in found if "s3cr3t" in each.what]
