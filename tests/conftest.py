"""What every test may use."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.nodeid import coerce_node_id

import brokers
import daemon
from postgres_server import PostgresServer, postgres_server
from rabbitmq_server import RabbitmqServer, rabbitmq_server
from redis_server import RedisServer, redis_server
from s3_server import S3Server, s3_server, with_keys
from sqs_server import SqsServer, sqs_server

HERE = Path(__file__).parent
UNMEASURED = ("contract", "journeys")  # folders whose tests run what is beside the domain and the services
MEASURED = ("test_queue_celery.py", "test_reader.py")  # of them, those that reach a line there that no others reach


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys begin first, so that none of them is left alone at the end; groups stay together.

    xdist writes a test's group where pytest before 9.2 had its id, and finds none in it since: pytest-xdist issue 1386.
    """
    items.sort(key=lambda item: item.get_closest_marker("journey") is None)
    for item in items:
        if grouped := vars(item).get("_nodeid"):
            item._id = coerce_node_id(grouped)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measure coverage only where it counts: Python runs at two thirds of its speed meanwhile."""
    plugin = item.config.pluginmanager.getplugin("_cov")
    measuring = plugin and plugin.cov_controller
    if not measuring or is_measured(item):
        return (yield)
    measuring.pause()
    try:
        return (yield)
    finally:
        measuring.resume()


def is_measured(item: pytest.Item) -> bool:
    """Whether what this test runs counts for the coverage of the domain and the services."""
    is_beside = item.path.relative_to(HERE).parts[0] in UNMEASURED and item.path.name not in MEASURED
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
