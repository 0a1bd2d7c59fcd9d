"""The Celery application: one small task, and what is set so that the broker holds nothing that matters."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from celery import Celery as App

from loquent.queues.celery_publisher import TASK, Ring

QUEUE = "loquent"
CONNECT, ANSWER = 3.0, 3.0  # seconds in which a broker must be reached, and answer, where messages are taken in

OPTIONS: dict[str, dict[str, Any]] = {
    "redis": {
        "socket_connect_timeout": CONNECT,
        "socket_timeout": ANSWER,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "visibility_timeout": 60,
    },
    "sqs": {"wait_time_seconds": 5, "visibility_timeout": 60},
}
"""What kombu's transports are told, by scheme."""


def make_app(url: str, hear: Callable[[Ring], None]) -> App:
    """An application at that broker, which hands each message to ``hear``; nothing is connected yet.

    Acknowledged before it is handed over, no results, JSON alone: what a message asks for is looked up in the store,
    so there is nothing to keep, to repeat or to trust.
    """
    scheme = url.partition(":")[0].lower()
    app = App("loquent", broker=url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=CONNECT,
        broker_transport_options=OPTIONS.get(scheme.removesuffix("s") if scheme == "rediss" else scheme, {}),
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

    @app.task(name=TASK, bind=True, shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def look(task: Any, id: str) -> None:
        hear(Ring(id, task.request.expires))

    return app
