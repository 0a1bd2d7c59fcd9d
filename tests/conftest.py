"""What every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import brokers
import daemon
from postgres_server import PostgresServer, postgres_server
from rabbitmq_server import RabbitmqServer, rabbitmq_server
from redis_server import RedisServer, redis_server
from s3_server import S3Server, s3_server, with_keys
from sqs_server import SqsServer, sqs_server


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
