"""Queues: a URL's scheme names the backend, loaded only when used."""

from __future__ import annotations

from loquent.ports.backends import named
from loquent.ports.queue import Queue

CELERY = "loquent.queues.celery:Celery"
SCHEMES = {
    "local": "loquent.queues.local:Local",
    **dict.fromkeys(("redis", "rediss", "amqp", "amqps", "pyamqp"), CELERY),
    "sqs": CELERY,
}


def connect(url: str) -> Queue:
    """The queue that the URL names; not yet opened. Raises Misconfigured."""
    made: Queue = named(url, SCHEMES, "LOQUENT_QUEUE", extra="sqs" if url.startswith("sqs:") else "celery")(url)
    return made
