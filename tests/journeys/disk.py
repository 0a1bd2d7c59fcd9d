"""A disk that fills up under a server: what is refused, what goes on, and that all heals when there is room again.

``python -m journeys.disk FOLDER`` mounts a small disk there and runs it; ``unshare`` lets anybody mount one, in a
namespace of its own that ends with the process. test_disk.py has the command.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2

from serving import Served, served

MB = 1 << 20
SIZE = 48 * MB  # of the disk
RESERVE = 8 * MB  # and a ballast of 2
MEMORY = Path("/dev/shm")
SEEN = 15.0  # seconds in which a change of the disk is seen; it takes one
TEXT = "x" * 96_000  # one word, kept as it was asked and as it was answered
SLOW = "[slow 0.05] [words 60] word"
FULL = "the disk of the database is full"  # as the database says it when it met the end itself


def command(folder: Path) -> list[str]:
    """What runs this module where it may mount a disk, if there is any such place for who we are."""
    for way in (["unshare", "--mount", "--map-root-user"], ["unshare", "--mount"]):
        try:
            subprocess.run([*way, "mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return [*way, sys.executable, "-m", "journeys.disk"]
    return [sys.executable, "-m", "journeys.disk"]


class Disk:
    """A small one, and a file of somebody else's that takes the room on it.

    Where nothing may be mounted it is the last part of a large one: it can be filled as far as the reserve goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disk"
        self.folder.mkdir()
        told = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(self.folder)],
            check=False,
            capture_output=True,
        )
        self.is_mounted = told.returncode == 0
        if not self.is_mounted:  # in memory, where nobody else writes much
            self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else folder))
        self.beyond = 0 if self.is_mounted else self._free() - SIZE  # bytes that are left when it is full
        self._filler = self.folder / "somebody-elses"

    @property
    def left(self) -> int:
        """Bytes."""
        return self._free() - self.beyond

    def _free(self) -> int:
        known = os.statvfs(self.folder)
        return known.f_bavail * known.f_frsize

    def fill(self, *, leave: int) -> None:
        """Have so many bytes left at most; 0: not one."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while (left := self.left - leave) > 0:
                    file.write(bytes(min(left, MB)))
            except OSError:
                assert leave == 0

    def free(self) -> None:
        """Take it away again."""
        self._filler.unlink()

    def remove(self) -> None:
        """Leave nothing."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
        else:
            shutil.rmtree(self.folder)


class Caller:
    """Somebody with an account, at the server."""

    def __init__(self, server: Served) -> None:
        self._client = httpx2.Client(base_url=server.url, timeout=30)
        self._who = {"username": "ann", "password": "a long enough one"}
        self._client.post("/api/v1/users", json=self._who)  # who has been here before has an account
        assert self.logs_in() == 200

    def logs_in(self) -> int:
        """The status."""
        answer = self._client.post("/api/v1/token", data=self._who)
        self._client.headers["authorization"] = f"Bearer {answer.json().get('access_token')}"
        return answer.status_code

    def do(self, method: str, path: str, json: Any = None) -> httpx2.Response:
        """One request."""
        return self._client.request(method, path, json=json)

    def asks(self, prompt: str = "one two", **more: Any) -> httpx2.Response:
        """A generation."""
        return self.do("POST", "/api/v1/generations", {"prompt": prompt, **more})

    def status(self, id: str) -> str:
        """Of one's generation."""
        return str(self.do("GET", f"/api/v1/generations/{id}").json()["status"])

    def health(self) -> str:
        """In a word, and what is said of the disk."""
        said = self.do("GET", "/api/v1/health/detailed").json()
        return f"{said['status']}: {said['checks']['disk']}"

    def begins_upload(self, server: Served, length: int) -> bytes:
        """The status line that is answered to an upload of which only the headers are sent."""
        with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=10) as wire:  # type: ignore[arg-type]
            head = (
                f"POST /api/v1/documents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n"
                f"Authorization: {self._client.headers['authorization']}\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            )
            wire.sendall(head.encode())
            return wire.recv(4096).split(b"\r\n")[0]


def soon(is_so: Callable[[], bool], what: str) -> float:
    """The seconds until it was; it must be soon."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() < began + SEEN, what
        time.sleep(0.05)
    return time.monotonic() - began


def nearly_full(server: Served, disk: Disk, ann: Caller) -> None:
    """Somebody else takes the room but for a part of the reserve."""
    kept = [ann.asks(f"answer {number}").json()["id"] for number in range(5)]
    running = ann.asks(SLOW, background=True).json()["id"]
    soon(lambda: ann.status(running) == "processing", "a job is taken")
    disk.fill(leave=RESERVE // 2)
    soon(lambda: ann.asks().status_code == 507, "nothing new is begun")
    refused = ann.asks(background=True)
    assert (refused.status_code, refused.json()["code"]) == (507, "insufficient_storage")
    assert int(refused.headers["retry-after"]) > 0
    theirs = ann.do("POST", "/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": "x"}]})
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (507, "insufficient_storage")
    assert ann.begins_upload(server, 3_000_000).startswith(b"HTTP/1.1 507")
    assert ann.health().startswith("degraded: the disk is nearly full")
    assert ann.do("GET", "/api/v1/health/ready").status_code == 200
    soon(lambda: 0 < server.metric("loquent_disk_free_bytes") - disk.beyond < RESERVE, "monitors are told")
    goes_on(ann, kept)
    soon(lambda: ann.status(running) == "completed", "what runs is finished")


def full(disk: Disk, ann: Caller) -> None:
    """Somebody else takes the last byte: the ballast is given up for what has to go on; and then that is taken too."""
    kept = [ann.asks(f"answer {number}").json()["id"] for number in range(5)]
    running, other = (ann.asks(SLOW, background=True).json()["id"] for _ in range(2))
    soon(lambda: {ann.status(running), ann.status(other)} == {"processing"}, "jobs are taken")
    disk.fill(leave=0)
    soon(lambda: disk.left > RESERVE // 8, "the ballast is given up")
    assert ann.asks().status_code == 507
    assert ann.do("POST", f"/api/v1/generations/{other}/cancel").status_code == 200
    goes_on(ann, kept)
    soon(lambda: ann.status(running) == "completed", "what runs is finished")
    disk.fill(leave=0)  # once more: now there is nothing that could be given up
    last = ann.do("DELETE", f"/api/v1/generations/{running}").status_code
    assert last in (204, 507), last
    assert ann.status(other) == "cancelled"


def goes_on(ann: Caller, kept: list[str]) -> None:
    """What is to work on a disk that is full for anything new."""
    assert ann.logs_in() == 200
    assert len(ann.do("GET", "/api/v1/generations").json()["data"]) > len(kept)
    assert ann.do("GET", "/api/v1/history/export").status_code == 200
    for id in kept:
        assert ann.do("DELETE", f"/api/v1/generations/{id}").status_code == 204
        assert ann.do("GET", f"/api/v1/generations/{id}").status_code == 404


def heals(disk: Disk, ann: Caller) -> float:
    """The room is given back; the seconds until all is as it was."""
    disk.free()
    seconds = soon(lambda: ann.asks().status_code == 200, "it heals")
    soon(lambda: ann.health() == "healthy: ok", "it is healthy")
    job = ann.asks(background=True).json()["id"]
    soon(lambda: ann.status(job) == "completed", "jobs are taken again")
    return seconds


def filled_by_callers(ann: Caller) -> tuple[int, httpx2.Response]:
    """How many answers were kept until nothing more was, and the refusal."""
    for number in range(2_000):
        answer = ann.asks(TEXT)
        if answer.status_code != 200:
            return number, answer
    raise AssertionError("it never fills up")


def run(folder: Path, *, is_long: bool) -> None:
    """All of it; raises AssertionError."""
    disk = Disk(folder)
    try:
        fill_and_free(folder, disk, is_long=is_long)
    finally:
        disk.remove()


def fill_and_free(folder: Path, disk: Disk, *, is_long: bool) -> None:
    """The same, on that disk."""
    log, data = folder / "serve.log", disk.folder / "data"
    common = {"LOQUENT_DATA_DIR": str(data), "LOQUENT_SWEEP_SECONDS": "0.5"}
    with served(folder, anew=True, LOQUENT_FREE_SPACE=str(disk.beyond + RESERVE), **common) as server:
        ann = Caller(server)
        nearly_full(server, disk, ann)
        print(f"healed {heals(disk, ann):.1f} s after a nearly full disk")
        if disk.is_mounted:
            full(disk, ann)
            print(f"healed {heals(disk, ann):.1f} s after a disk without a byte")
            assert (data / "ballast").stat().st_size == RESERVE // 4
        before = len(log.read_text())
        kept, refused = filled_by_callers(ann)
        assert (refused.status_code, FULL in refused.text) == (507, False), refused.text
        assert FULL not in log.read_text()[before:]  # the database has never met the end
        print(f"{kept} answers of 192 kB were kept before the next was refused, {disk.left / MB:.1f} MB before the end")
    if is_long and disk.is_mounted:
        with served(folder, anew=True, LOQUENT_FREE_SPACE="0", **common) as server:
            ann = Caller(server)  # the negative control: without a reserve the database itself meets the end
            _, refused = filled_by_callers(ann)
            assert (refused.status_code, FULL in refused.text) == (507, True), refused.text
            assert ann.do("GET", "/api/v1/generations").status_code == 200
            print("without a reserve the database met the end")
    with closing(sqlite3.connect(data / "loquent.db")) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where it mounts; none: in a place of its own, at length")
    parser.add_argument("--long", action="store_true", help="fill it without a reserve, too")
    asked = parser.parse_args()
    if asked.folder is not None:
        run(asked.folder, is_long=asked.long)
    else:
        with tempfile.TemporaryDirectory() as place:
            sys.exit(subprocess.run([*command(Path(place)), "--long", place], check=False).returncode)
