"""What every test may use."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest

import brokers
import daemon
from postgres_server import PostgresServer, postgres_server
from rabbitmq_server import RabbitmqServer, rabbitmq_server
from redis_server import RedisServer, redis_server
from s3_server import S3Server, s3_server, with_keys
from sqs_server import SqsServer, sqs_server

HERE = Path(__file__).parent
FLOORS = ("loquent.domain", "loquent.services")  # whose coverage counts
UNMEASURED = ("contract", "house", "journeys", "web")  # folders that reach hardly a line there that "unit" does not
MEASURED = {  # of them, those that do
    f"test_{name}.py"
    for name in ("five_surfaces", "full_disk", "history_api", "images_api", "models_api", "responses_api")
}
BESIDE = {  # of "unit", those that do not, and take long
    *("test_anthropic_engine.py", "test_ocr_engine.py", "test_openai_engine.py", "test_transformers_engine.py"),
    *("test_bad_engines.py", "test_caches.py", "test_cli.py", "test_doctor.py", "test_echo.py", "test_env_files.py"),
    *("test_http_text.py", "test_job_machine.py", "test_probe.py", "test_secrets.py", "test_weights.py"),
}


def pytest_configure(config: pytest.Config) -> None:
    """In each of several processes pytest-cov 7.1 begins twice: end the first, which is never read and never rests."""
    plugin = config.pluginmanager.getplugin("_cov")
    if plugin and hasattr(config, "workerinput"):
        plugin.cov_controller.cov.stop()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys begin first: none is left alone at the end, and beside each other they wait more than they work."""
    items.sort(key=lambda item: item.get_closest_marker("journey") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """A group is part of its tests' ids: pytest-xdist 3.8 writes it where pytest 9.2 no longer looks (issue 1386)."""
    for item in session.items:
        written = getattr(item, "_nodeid", item.nodeid)
        if written != item.nodeid:
            item._id = item.id.parse(written)


@contextmanager
def unmeasured(config: pytest.Config) -> Iterator[None]:
    """Coverage stands still meanwhile: with it, Python runs at half its speed."""
    plugin = config.pluginmanager.getplugin("_cov")
    measuring = plugin and plugin.cov_controller
    if not measuring:
        yield
        return
    measuring.pause()
    try:
        yield
    finally:
        measuring.resume()


@contextmanager
def kept_for_good() -> Iterator[None]:
    """What is made meanwhile stays, and the collector walks it no more: a full walk of it takes a third of a second."""
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    """What is judged is imported under measurement, and all else that tests import is not."""
    if session.config.pluginmanager.hasplugin("_cov"):
        for floor in map(import_module, FLOORS):
            for module in walk_packages(floor.__path__, f"{floor.__name__}."):
                import_module(module.name)
    with unmeasured(session.config), kept_for_good():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measure coverage only where it counts."""
    if is_measured(item):
        return (yield)
    with unmeasured(item.config):
        return (yield)


def is_measured(item: pytest.Item) -> bool:
    """Whether what this test runs counts for the coverage of the domain and the services."""
    name, folder = item.path.name, item.path.relative_to(HERE).parts[0]
    is_beside = name in BESIDE or (folder in UNMEASURED and name not in MEASURED)
    return not is_beside and item.get_closest_marker("journey") is None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests of this process; each takes a database of its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server for all tests of this process; each takes a place of its own in its bucket."""
    with s3_server() as server:
        yield server


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of this test's own, to be killed, frozen and emptied."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitmqServer]:
    """A RabbitMQ for all tests of this process: it takes seconds to start. Who uses it is in the group rabbitmq."""
    with rabbitmq_server() as server:
        yield server


@pytest.fixture
def sqs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqsServer]:
    """SQS of this test's own, its keys in the environment."""
    with sqs_server(tmp_path_factory.mktemp("sqs")) as server:
        with_keys(monkeypatch, server.environ)
        yield server


@pytest.fixture(params=brokers.EACH)
def broker(request: pytest.FixtureRequest) -> Iterator[brokers.Broker]:
    """What Celery speaks, one after the other: without a message."""
    server: brokers.Broker = request.getfixturevalue(request.param)
    server.empty()
    yield server
    server.start_once()


@pytest.fixture
def free_port() -> int:
    return daemon.free_port()
