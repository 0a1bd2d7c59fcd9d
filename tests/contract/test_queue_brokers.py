"""What only RabbitMQ, SQS or a monitor asks of the queue: certificates, endpoints, names, events."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest
from celery.events.state import State

from brokers import Broker
from built import opened
from contract.test_queue_celery import done, submitted, until
from loquent import queues
from loquent.domain.errors import Misconfigured, Unavailable
from loquent.queues.celery import Celery
from rabbitmq_server import RabbitmqServer
from s3_server import with_keys
from sqs_server import SqsServer

pytestmark = pytest.mark.anyio


async def rung(broker: Broker, url: str, id: str) -> None:
    """Ring for this, and return when the message has come."""
    before = broker.waiting()
    queue = queues.connect(url)
    await queue.open()
    await queue.ring(id)
    await until(lambda: broker.waiting() > before)
    await queue.close()


@pytest.mark.xdist_group("rabbitmq")
async def test_a_certificate_is_good_for_the_name_that_it_names_alone(
    rabbitmq: RabbitmqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queues.connect(f"amqps://guest:guest@localhost:{rabbitmq.tls_port}//")
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await queue.check()  # nobody here knows who signed it
    monkeypatch.setenv("SSL_CERT_FILE", str(rabbitmq.certificate))
    await queue.check()
    with pytest.raises(Unavailable, match="IP address mismatch"):
        await queues.connect(f"amqps://guest:guest@127.0.0.1:{rabbitmq.tls_port}//").check()


@pytest.mark.xdist_group("rabbitmq")
async def test_who_may_not_log_in_is_told_so(rabbitmq: RabbitmqServer) -> None:
    with pytest.raises(Unavailable, match="ACCESS_REFUSED"):
        await queues.connect(f"amqp://ann:s3cret@127.0.0.1:{rabbitmq.port}//").check()


async def test_a_broker_that_is_away_is_said_within_seconds(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys(monkeypatch, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    for url in (
        f"redis://127.0.0.1:{free_port}/0",
        f"amqp://127.0.0.1:{free_port}//",
        f"sqs://?endpoint=http://127.0.0.1:{free_port}&region=eu-central-1",
    ):
        with pytest.raises(Unavailable, match="the broker does not answer"):
            async with asyncio.timeout(10):
                await queues.connect(url).check()


async def test_the_url_counts_and_not_the_variable_that_celery_reads_by_itself(
    redis: Broker, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", f"redis://127.0.0.1:{free_port}/0")
    await rung(redis, redis.url, "gen_1")
    assert redis.waiting() == 1


async def test_sqs_is_found_by_what_a_machine_of_amazons_knows(sqs: SqsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", sqs.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    await rung(sqs, "sqs://", "gen_1")
    [url] = sqs.queues()
    told = sqs.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (told["MessageRetentionPeriod"], told["VisibilityTimeout"]) == ("60", "60")
    assert [each["id"] for each in sqs.rings()] == ["gen_1"]


async def test_sqs_takes_a_prefix_or_a_queue_that_stands(sqs: SqsServer) -> None:
    await rung(sqs, f"{sqs.url}&prefix=staging-", "gen_1")
    assert [each.rpartition("/")[2] for each in sqs.queues()] == ["staging-loquent"]
    made = sqs.client.create_queue(QueueName="jobs")["QueueUrl"]
    await rung(sqs, f"{sqs.url}&queue={made}", "gen_2")
    assert len(sqs.queues()) == 2
    assert sorted(each["id"] for each in sqs.rings()) == ["gen_1", "gen_2"]
    queue = queues.connect(f"{sqs.url}&queue={made}")
    await queue.open()
    await asyncio.wait_for(queue.wait(30), 20)  # gen_2
    await until(lambda: sqs.waiting() == 1)
    await queue.close()


def test_sqs_refuses_what_it_does_not_know() -> None:
    with pytest.raises(Misconfigured, match="and not colour"):
        queues.connect("sqs://?region=eu-central-1&colour=red")


@pytest.mark.parametrize("server", ["redis", pytest.param("rabbitmq", marks=pytest.mark.xdist_group("rabbitmq"))])
async def test_monitors_see_each_message_by_the_id_of_its_generation(
    tmp_path: Path, request: pytest.FixtureRequest, server: str
) -> None:
    """What Flower and the exporters look at: Celery's events, and its remote control."""
    broker: Broker = request.getfixturevalue(server)
    broker.empty()
    seen, monitor = State(), Celery(broker.url).app
    watching, enough = threading.Event(), threading.Event()

    def watch() -> None:
        with monitor.connection_for_read() as connection:
            receiver = monitor.events.Receiver(connection, handlers={"*": seen.event})
            with receiver.consumer_context() as (own, _, _):
                watching.set()
                while not enough.is_set():
                    with contextlib.suppress(TimeoutError):
                        own.drain_events(timeout=0.2)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        await asyncio.to_thread(watching.wait, 10)
        async with opened(tmp_path, LOQUENT_QUEUE=broker.url, LOQUENT_SWEEP_SECONDS="600") as services:
            await done(services, ids := await submitted(services))
            await until(lambda: ids[0] in seen.tasks and seen.tasks[ids[0]].state == "SUCCESS")
            told = await asyncio.to_thread(monitor.control.inspect(timeout=1).stats)
    finally:
        enough.set()
        await asyncio.to_thread(thread.join)
    task = seen.tasks[ids[0]]
    assert (task.name, task.args) == ("loquent.generation", f"('{ids[0]}',)")
    assert task.worker.hostname.startswith("loquent-")
    assert task.received and task.started and task.succeeded
    assert list(told) == [task.worker.hostname]
