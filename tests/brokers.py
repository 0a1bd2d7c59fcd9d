"""What Celery speaks, as a test has it: servers that are killed, frozen and emptied alike."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

EACH = ("redis", pytest.param("rabbitmq", marks=pytest.mark.xdist_group("rabbitmq")), "sqs")
"""Their fixtures. RabbitMQ takes seconds to start: all that use it share one process and one server."""

KILLED = (
    "redis",
    *(pytest.param(name, marks=(pytest.mark.long, pytest.mark.xdist_group(name))) for name in ("rabbitmq", "sqs")),
)
"""The same where they are killed: `make test` kills the one, `make chaos` all. RabbitMQ takes a minute for that."""


class Broker(Protocol):
    """A server, at an URL that LOQUENT_QUEUE takes."""

    url: str

    def start(self) -> None:
        """Start it, and wait until it answers."""

    def start_once(self) -> None:
        """Start it where it does not run yet."""

    def kill(self) -> None:
        """End it at once."""

    def freeze(self) -> None:
        """Let it hold its connections and say nothing."""

    def thaw(self) -> None:
        """Let it go on."""

    def empty(self) -> None:
        """Let it forget all messages."""

    def waiting(self) -> int:
        """How many messages there are in Celery's queue; none is touched."""

    def rings(self) -> list[dict[str, Any]]:
        """Their headers; only where nobody else takes messages in."""
