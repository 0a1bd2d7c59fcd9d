"""Uploads under fire: a server that is killed again and again while files come in; then the sweep, and the count.

``python -m journeys.uploads`` (from ``tests/``) runs it at any length; test_uploads.py has the short form.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from daemon import free_port
from journeys.processes import end_of, is_up, start

FAILPOINTS = ("after-blob:3", "mid-blob:2", "after-rows:2", "after-remove:1", "before-blob:2")
GRACE = 1.1  # seconds, after which a blob without a row is nobody's
QUICK = {"LOQUENT_RETENTION_SECONDS": "0", "LOQUENT_BLOB_GRACE_SECONDS": "1"}  # swept by hand alone
SOON = 2.0  # seconds after which a server that takes uploads is dead, at the latest
ARMED = 6.0  # the same where it is to die at a failpoint: what comes first is good enough
PAUSE = 0.02  # before a client asks again


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    uploads: int = 30  # that a kill cuts off
    at_once: int = 6
    seed: int = 1


@dataclass
class Report:
    """What was seen."""

    plan: Plan
    cut: int = 0  # uploads that were under way when the server died
    kills: int = 0
    at_failpoints: int = 0  # kills that the server did to itself
    answered: dict[str, str] = field(default_factory=dict)  # document -> digest of what was sent, as the 201 told
    erased: set[str] = field(default_factory=set)  # that were asked to go
    checked: int = 0  # originals that were fetched and compared
    orphans: int = 0  # blobs without a row, before the sweep
    halves: int = 0  # files that never became a blob, before the sweep
    rows: dict[str, str] = field(default_factory=dict)  # document -> digest, at the end
    texts: set[str] = field(default_factory=set)
    blobs: dict[str, str] = field(default_factory=dict)  # document -> digest, at the end
    strays: list[str] = field(default_factory=list)  # other files among the blobs, at the end
    unswept: str = ""  # what the check said before the sweep: the control that it sees something
    seconds: float = 0.0

    def fault(self) -> str:
        """What ``check`` has to say; empty where all is well."""
        try:
            self.check()
        except AssertionError as error:
            return str(error) or "broken"
        return ""

    def check(self) -> None:
        """Raise AssertionError where a promise was broken."""
        assert self.cut >= self.plan.uploads, f"{self.cut} uploads of {self.plan.uploads} were cut off"
        assert self.rows == self.blobs, "every row has its blob, whole, and no blob is without a row"
        assert set(self.rows) == self.texts, "every document has its text"
        assert not self.strays, self.strays
        lost = set(self.answered) - self.erased - set(self.rows)
        assert not lost, f"{len(lost)} documents were answered with 201 and are gone"
        assert all(self.answered.get(id, digest) == digest for id, digest in self.rows.items())

    def __str__(self) -> str:
        return (
            f"{self.cut} uploads cut off by {self.kills} kills ({self.at_failpoints} at failpoints);"
            f" {len(self.answered)} were whole, {len(self.erased)} erased, {self.checked} originals compared;"
            f" {self.orphans} blobs without a row and {self.halves} halves before the sweep, none after it;"
            f" {len(self.rows)} documents at the end; {self.seconds:.1f} s, seed {self.plan.seed}"
        )


class Rig:
    """A server that dies, clients that upload and erase, and one who fetches whatever is listed."""

    def __init__(self, plan: Plan, folder: Path, port: int) -> None:
        self.report = Report(plan)
        self._plan = plan
        self._folder = folder
        self._address = f"http://127.0.0.1:{port}"
        self._environ = {**QUICK, "LOQUENT_PORT": str(port)}
        self._chance = random.Random(plan.seed)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._compared: set[str] = set()

    async def run(self) -> Report:
        """All of it; what was seen, not yet checked."""
        began = time.monotonic()
        try:
            while self.report.cut < self._plan.uploads:
                await self._round()
            server = self._start("serve")
            assert await is_up(server, self._address)
            async with self._client() as client:
                await self._compare(client)
            server.terminate()
            await end_of(server)
            self.report.orphans = len(set(self._blobs()) - set(self._rows()))
            self.report.halves = len(self._others())
            self._look()
            self.report.unswept = self.report.fault()
            await asyncio.sleep(GRACE)
            assert await end_of(self._start("store sweep --force")) == 0
            self._look()
        finally:
            for process in self._processes:
                process.kill()
                process.wait()
        self.report.seconds = time.monotonic() - began
        return self.report

    async def _round(self) -> None:
        """A server that lives until it is killed, at its failpoint or at a moment that nobody chose."""
        number = self.report.kills
        armed = FAILPOINTS[number // 2 % len(FAILPOINTS)] if number % 2 else ""
        server = self._start("serve", armed)
        assert await is_up(server, self._address)
        async with self._client() as client:
            await self._compare(client)
            uploading = [asyncio.create_task(self._upload(client, turn)) for turn in range(self._plan.at_once)]
            try:
                await end_of(server, ARMED if armed else self._chance.uniform(0.05, SOON))
                self.report.at_failpoints += 1
            except TimeoutError:
                server.kill()
            assert await end_of(server) == -signal.SIGKILL, "the server ended by itself"
            self.report.kills += 1
            self.report.cut += sum(await asyncio.gather(*uploading))

    async def _upload(self, client: httpx2.AsyncClient, turn: int) -> bool:
        """Send files, and erase some of them again, until the server dies; whether it died with one of them in hand.

        Odd ones speak the documents family's dialect.
        """
        while True:
            data = self._chance.randbytes(self._chance.choice((50, 5_000, 500_000))).hex().encode()
            path = "/getdoc/uploadfile" if turn % 2 else "/api/v1/documents"
            try:
                answer = await client.post(path, files={"file": ("a.txt", data)})
            except httpx2.TransportError:
                return True
            assert answer.status_code in (200, 201), answer.text
            if turn % 2:
                continue
            id = answer.json()["id"]
            self.report.answered[id] = hashlib.sha256(data).hexdigest()
            if self._chance.random() < 0.4:
                self.report.erased.add(id)
                with suppress(httpx2.TransportError):
                    assert (await client.delete(f"/api/v1/documents/{id}")).status_code == 204
                    continue
                return False
            await asyncio.sleep(PAUSE)

    async def _compare(self, client: httpx2.AsyncClient) -> None:
        """Fetch the original of whatever is listed: a row without its blob, or with another's, would be seen here."""
        after: dict[str, str] = {}
        while True:
            page = (await client.get("/api/v1/documents", params={"limit": "100", **after})).json()
            for each in page["data"]:
                if each["id"] in self._compared:
                    continue
                original = await client.get(f"/api/v1/documents/{each['id']}/original")
                assert original.status_code == 200, (each, original.text)
                assert hashlib.sha256(original.content).hexdigest() == each["sha256"], each
                assert self.report.answered.get(each["id"], each["sha256"]) == each["sha256"]
                self._compared.add(each["id"])
                self.report.checked += 1
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx2.AsyncClient]:
        async with httpx2.AsyncClient(base_url=self._address, timeout=30, verify=False) as client:
            yield client

    def _start(self, command: str, armed: str = "") -> subprocess.Popen[bytes]:
        process = start(self._folder, command, **self._environ, LOQUENT_FAILPOINTS=armed)
        self._processes.append(process)
        return process

    # What lies there, in the store's own file and in the folder

    def _look(self) -> None:
        self.report.rows, self.report.blobs = self._rows(), self._blobs()
        self.report.strays = [str(path) for path in self._others()]
        self.report.texts = {id for (id,) in self._select("SELECT id FROM document_texts")}

    def _rows(self) -> dict[str, str]:
        return dict(self._select("SELECT id, sha256 FROM documents"))

    def _blobs(self) -> dict[str, str]:
        found = [path for path in self._files() if path.name.startswith("doc_")]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def _others(self) -> list[Path]:
        return [path for path in self._files() if not path.name.startswith("doc_")]

    def _files(self) -> list[Path]:
        return [path for path in (self._folder / "data" / "blobs").rglob("*") if path.is_file()]

    def _select(self, text: str) -> list[Any]:
        file = self._folder / "data" / "loquent.db"
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=10)) as store:
            return store.execute(text).fetchall()


def main() -> None:
    """Run it from the command line, at any length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uploads", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(Rig(Plan(asked.uploads, asked.at_once, asked.seed), Path(folder), free_port()).run())
    sys.stdout.write(f"{report}\n")
    report.check()


if __name__ == "__main__":
    main()
