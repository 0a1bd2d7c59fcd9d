"""An upgrade while callers ask: two replicas behind nginx are replaced one by one by the version that comes next.

``python -m journeys.upgrade`` (from ``tests/``) goes there and back again as often as it is told to; test_upgrade.py
has the short form.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from journeys.cluster import Cluster, Part, cluster
from postgres_server import PostgresServer, postgres_server
from redis_server import RedisServer, redis_server

SOURCE = Path(__file__).resolve().parents[2] / "src"
OURS, THEIRS = "/api/v1/generations", "/v1/chat/completions"
DELAY = 2.0  # seconds in which nginx is to notice that a replica goes
QUICK = {
    "LOQUENT_STOP_DELAY": str(DELAY),
    "LOQUENT_SWEEP_SECONDS": "0.5",
    "LOQUENT_CHECKPOINT_SECONDS": "0.2",
}
MIGRATION = '''"""What the version that comes next adds."""

import sqlalchemy as sa
from alembic import op

revision = "{next}"
down_revision = "{head}"
works_from = "{head}"


def upgrade() -> None:
    """A column that may be empty, one that has a default, and a table: what the version before leaves alone."""
    op.add_column("contents", sa.Column("colour", sa.Text()))
    op.add_column("generations", sa.Column("weight", sa.BigInteger(), nullable=False, server_default="1"))
    op.create_table("colours", sa.Column("id", sa.Text(), primary_key=True))
'''


@dataclass(frozen=True)
class Version:
    """A program: where it lies, what it calls itself and which schema it works with."""

    source: Path
    name: str
    schema: str


def this_version() -> Version:
    """The program as it stands."""
    name = _said(SOURCE / "loquent/__init__.py", r'__version__ = "(.+)"')
    return Version(SOURCE, name, _said(SOURCE / "loquent/stores/migrations/__init__.py", r'HEAD = "(.+)"'))


def next_version(folder: Path) -> Version:
    """A copy with one more migration, whose fields its records have, and another number."""
    now, made = this_version(), folder / "next"
    schema = f"{int(now.schema) + 1:04d}"
    shutil.copytree(SOURCE, made)  # what is compiled already, too: it is good as long as its source is
    migrations, records = made / "loquent/stores/migrations", made / "loquent/domain/generations.py"
    (migrations / f"versions/r{schema}_next.py").write_text(MIGRATION.format(next=schema, head=now.schema))
    _change(migrations / "__init__.py", f'HEAD = "{now.schema}"', f'HEAD = "{schema}"')
    _change(made / "loquent/__init__.py", now.name, "99.0.0")
    content = _said(records, r"(?s)(class Content:\n.+?)\n\n\n")
    _change(records, content, f"{content}\n    colour: str | None = None")
    return Version(made, "99.0.0", schema)


def _said(file: Path, pattern: str) -> str:
    found = re.search(pattern, file.read_text("utf-8"))
    assert found, f"{file} does not say {pattern}"
    return found[1]


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
    file.write_text(text.replace(old, new), "utf-8")


@dataclass
class Callers:
    """All that is asked, at an even rate whatever the answers take; and what came of it."""

    address: str
    rate: float
    failed: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)  # by id: what it must come to

    async def ask(self, told: asyncio.Event) -> None:
        """Until told to stop; returns when the last one is answered."""
        limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
        async with httpx2.AsyncClient(base_url=self.address, timeout=30, limits=limits, verify=False) as client:
            async with asyncio.TaskGroup() as group:
                kinds = (self._create, self._stream, self._get, self._list, self._background, self._chat)
                began = time.monotonic()
                for number, kind in enumerate(itertools.cycle(kinds)):
                    group.create_task(self._one(kind, client, number))
                    await asyncio.sleep(max(0.0, began + (number + 1) / self.rate - time.monotonic()))
                    if told.is_set():
                        break
            await self._settle(client)

    async def _one(self, kind: Any, client: httpx2.AsyncClient, number: int) -> None:
        began, name = time.monotonic(), kind.__name__.strip("_")
        self.asked[name] += 1
        try:
            await kind(client, number)
        except (httpx2.HTTPError, AssertionError) as error:
            self.failed.append(f"{name}: {type(error).__name__} {error}")
        self.seconds.append(time.monotonic() - began)

    async def _create(self, client: httpx2.AsyncClient, number: int) -> None:
        answer = await client.post(OURS, json={"prompt": f"[words 5] number {number}"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["output"].startswith(f"number {number}"), answer.text
        self.made.append(answer.json()["id"])

    async def _stream(self, client: httpx2.AsyncClient, number: int) -> None:
        body = {"prompt": f"[slow 0.02] [words 20] number {number}", "stream": True}
        async with client.stream("POST", OURS, json=body) as answer:
            text = "".join([piece async for piece in answer.aiter_text()])
        assert answer.status_code == 200, text
        assert "event: done" in text, text[-500:]

    async def _get(self, client: httpx2.AsyncClient, number: int) -> None:
        if self.made:
            answer = await client.get(f"{OURS}/{random.choice(self.made)}")
            assert answer.status_code == 200, answer.text
            assert answer.json()["status"] == "completed", answer.text

    async def _list(self, client: httpx2.AsyncClient, number: int) -> None:
        answer = await client.get(OURS, params={"limit": 20})
        assert answer.status_code == 200, answer.text

    async def _background(self, client: httpx2.AsyncClient, number: int) -> None:
        body = {"prompt": f"[slow 0.05] [words 10] job {number}", "background": True}
        answer = await client.post(OURS, json=body)
        assert answer.status_code == 202, answer.text
        self.jobs[answer.json()["id"]] = " ".join(itertools.islice(itertools.cycle(("job", str(number))), 10))

    async def _chat(self, client: httpx2.AsyncClient, number: int) -> None:
        messages = [{"role": "user", "content": f"number {number}"}]
        answer = await client.post(THEIRS, json={"model": "echo", "messages": messages})
        assert answer.status_code == 200, answer.text

    async def _settle(self, client: httpx2.AsyncClient) -> None:
        """Every job that was accepted has its one right result."""
        async with asyncio.timeout(60):
            for id, output in self.jobs.items():
                while (found := (await client.get(f"{OURS}/{id}")).json())["status"] in ("pending", "processing"):
                    await asyncio.sleep(0.1)
                if (found["status"], found["output"]) != ("completed", output):
                    self.failed.append(f"job: {found}")

    def __str__(self) -> str:
        took = sorted(self.seconds)
        return (
            f"{sum(self.asked.values())} requests ({len(self.jobs)} jobs) at {self.rate:g} a second: "
            f"{len(self.failed)} failed, p99 {took[int(len(took) * 0.99)]:.2f} s, longest {took[-1]:.2f} s"
        )


async def replace(part: Part, version: Version, *, dies_at: str = "") -> None:
    """End it as an operator does, and start it as that version; ``dies_at`` that point it dies first, once."""
    assert await part.end(seconds=30) == 0, part.log()[-2000:]
    if dies_at:
        with suppress(AssertionError):
            await part.start(PYTHONPATH=str(version.source), LOQUENT_FAILPOINTS=dies_at)
        assert part.process is not None
        assert part.process.poll() == -signal.SIGKILL, part.log()[-2000:]
    await part.start(PYTHONPATH=str(version.source))


async def versions(found: Cluster) -> list[str]:
    """What the replicas say that they are."""
    async with httpx2.AsyncClient(verify=False) as client:
        return [(await client.get(f"{part.address}/api/v1/health")).json()["version"] for part in found.apis]


def schema(database: str) -> str:
    """The revision of a database."""
    with psycopg.connect(database) as opened:
        [(found,)] = opened.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(found)


async def roll(
    folder: Path,
    postgres: PostgresServer,
    redis: RedisServer | None = None,
    *,
    rate: float = 50,
    workers: int = 0,
    rounds: int = 1,
    is_back: bool = False,
) -> Callers:
    """Replace all, one after the other, and (``is_back``) do so again with the version before; so many times."""
    before, after = this_version(), next_version(folder)
    async with cluster(folder, postgres, redis, workers=workers, **QUICK) as found:
        callers, told = Callers(found.address, rate), asyncio.Event()
        asking = asyncio.create_task(callers.ask(told))
        try:
            for number in range(rounds):
                for part in (*found.apis, *found.workers):
                    is_first = number == 0 and part is found.apis[0]
                    assert schema(found.database) == (before.schema if is_first else after.schema)
                    await replace(part, after, dies_at="mid-migration" if is_first else "")
                assert await versions(found) == [after.name] * len(found.apis)
                for part in (*found.apis, *found.workers) if is_back else ():
                    await replace(part, before)  # on the newer schema, which says that it bears it
                assert await versions(found) == [(before if is_back else after).name] * len(found.apis)
        finally:
            told.set()
            await asking
    return callers


async def run(rounds: int, rate: float) -> Callers:
    """The long form, with workers and a broker."""
    with tempfile.TemporaryDirectory() as made, postgres_server() as postgres, redis_server(Path(made)) as redis:
        return await roll(Path(made), postgres, redis, rate=rate, workers=2, rounds=rounds, is_back=True)


def main() -> None:
    """Run it from the command line, at any length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=50)
    asked = parser.parse_args()
    callers = asyncio.run(run(asked.rounds, asked.rate))
    sys.stdout.write(f"{callers}\n")
    assert not callers.failed, callers.failed[:20]


if __name__ == "__main__":
    main()
