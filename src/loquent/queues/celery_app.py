"""The Celery application: one small task, and what is set so that the broker holds nothing that matters."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from celery import Celery as App

from loquent.domain.errors import Misconfigured
from loquent.queues.celery_publisher import EXPIRES, TASK, Ring

QUEUE = "loquent"
CONNECT, ANSWER = 3.0, 3.0  # seconds in which a broker must be reached, and answer, where messages are taken in
HEARTBEAT = 30  # seconds after which, twice over, RabbitMQ is taken for dead when it says nothing

OPTIONS: dict[str, dict[str, Any]] = {
    "redis": {
        "socket_connect_timeout": CONNECT,
        "socket_timeout": ANSWER,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "visibility_timeout": 60,
    },
    "sqs": {
        "wait_time_seconds": 5,
        "polling_interval": 0.1,  # else a message a second
        "visibility_timeout": 60,
        "client-config": {"connect_timeout": CONNECT, "read_timeout": ANSWER, "retries": {"total_max_attempts": 1}},
        "sqs-creation-attributes": {"MessageRetentionPeriod": str(EXPIRES)},
    },
}
"""What kombu's transports are told, by scheme."""
TRANSPORTS = {"sqs": "loquent.queues.celery_sqs:Transport"}


def make_app(url: str, hear: Callable[[Ring], None]) -> App:
    """An application at that broker, which hands each message to ``hear``; nothing is connected yet.

    Acknowledged before it is handed over, no results, JSON alone: what a message asks for is looked up in the store,
    so there is nothing to keep, to repeat or to trust.
    """
    scheme = url.partition(":")[0].lower()
    options = OPTIONS.get(scheme.removesuffix("s") if scheme == "rediss" else scheme, {})
    if scheme == "sqs":
        url, options = _sqs(url, options)
    app = App("loquent", broker=url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        broker_channel_error_retry=True,  # a queue that vanishes, a user who is let in later: no end of the worker
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=CONNECT,
        broker_heartbeat=HEARTBEAT,
        broker_read_url=url,  # said here, too: Celery itself would rather have CELERY_BROKER_URL
        broker_write_url=url,
        broker_transport=TRANSPORTS.get(scheme),
        broker_transport_options=options,
        enable_utc=True,
        event_serializer="json",
        result_serializer="json",
        task_acks_late=False,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_publish_retry=False,
        task_reject_on_worker_lost=False,
        task_serializer="json",
        worker_cancel_long_running_tasks_on_connection_loss=True,  # there are none; said, so that it does not warn
        worker_concurrency=1,  # a message is a moment's work: more threads would only hold more of them back
        worker_pool="threads",
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,  # so that Flower and exporters see what comes in
    )
    if scheme == "rediss" and "ssl_cert_reqs" not in url:
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if scheme == "amqps":  # py-amqp looks whether a certificate is good, and whose only where it is told whose
        app.conf.broker_use_ssl = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": urlsplit(url).hostname}

    @app.task(name=TASK, bind=True, shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def look(task: Any, id: str) -> None:
        hear(Ring(id, task.request.expires))

    return app


def _sqs(url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The URL as kombu reads it, and as options what it cannot say.

    ``sqs://?region=eu-central-1&endpoint=http://localhost:4566&prefix=staging-&queue=https://sqs…/loquent``: all may be
    left out. Keys come from the environment, a profile or the machine, or stand before an ``@``.
    """
    parts = urlsplit(url)
    said = dict(parse_qsl(parts.query))
    known = {"endpoint", "prefix", "queue", "region"}
    if unknown := ", ".join(sorted(set(said) - known)):
        raise Misconfigured(f"LOQUENT_QUEUE: an sqs: URL takes {', '.join(sorted(known))}, and not {unknown}")
    login, at, place = parts.netloc.rpartition("@")
    endpoint = urlsplit(said.get("endpoint", ""))
    options = dict(options)
    if endpoint.netloc:
        options["is_secure"] = endpoint.scheme != "http"
    if "region" in said:
        options["region"] = said["region"]
    if "prefix" in said:
        options["queue_name_prefix"] = said["prefix"]
    if "queue" in said:  # one that stands already: neither looked for nor made
        options["predefined_queues"] = {QUEUE: {"url": said["queue"]}}
    return f"sqs://{login}{at}{endpoint.netloc or place}", options
