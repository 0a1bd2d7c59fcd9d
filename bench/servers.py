"""Starts a server for the bench: pinned to a core, waited for, weighed while it runs, stopped."""

from __future__ import annotations

import http.client
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
NICE = int(os.environ.get("BENCH_NICE", "0"))  # -15, as root: before whatever else a busy machine does
START = 60.0  # seconds that a start may take
CORES: list[int] = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SERVER_CORE, LOAD_CORE = (CORES[:1], CORES[-1:]) if len(CORES) > 1 else ([], [])


@dataclass
class Server:
    """A running server: where it listens, its process, and the replicas beside it, if any."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    start_ms: float
    bearer: str = ""
    idle_mb: float = 0.0
    family: list[psutil.Process] = field(default_factory=list)
    beside: list[Server] = field(default_factory=list)
    database: int = 0  # the process of its database server, where it has one

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def urls(self) -> list[str]:
        """Its own address, and those of the replicas beside it."""
        return [self.url, *(each.url for each in self.beside)]

    def weigh(self) -> tuple[float, float]:
        """Seconds of processor time so far, and MB resident now, of its processes and of the replicas beside it."""
        self.family = family(self.process.pid)
        weights = [weigh(self.family), *(each.weigh() for each in self.beside)]
        return sum(seconds for seconds, _ in weights), sum(memory for _, memory in weights)

    def stop(self) -> None:
        """End it and what is beside it, gently first."""
        for each in self.beside:
            each.stop()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for one in self.family:
            with suppress(psutil.NoSuchProcess):
                one.kill()

    def log(self) -> str:
        """The last of what it wrote."""
        return (self.folder / "server.log").read_text(errors="replace")[-3000:]


def family(pid: int) -> list[psutil.Process]:
    """A process and those it started."""
    head = psutil.Process(pid)
    return [head, *head.children(recursive=True)]


def weigh(processes: Iterable[psutil.Process]) -> tuple[float, float]:
    """Seconds of processor time so far, and MB resident now."""
    seconds = memory = 0.0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            seconds += sum(each.cpu_times()[:4])  # user, system, and both of children that have ended
            memory += each.memory_info().rss / 1e6
    return seconds, memory


def settle(pid: int, cores: list[int]) -> None:
    """Pin a process that ``start`` did not start, and those it started, as ours are."""
    for each in family(pid):
        with suppress(psutil.NoSuchProcess, OSError):
            if cores and hasattr(each, "cpu_affinity"):
                each.cpu_affinity(cores)
            if NICE:
                Path(f"/proc/{each.pid}/autogroup").write_text(str(NICE))


def busy() -> float:
    """Seconds that the servers' core has worked since the machine started, for whomever."""
    every = psutil.cpu_times(percpu=True)
    mine = [every[core] for core in SERVER_CORE]
    return float(sum(sum(each) - each.idle - getattr(each, "iowait", 0.0) for each in mine))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(
    name: str,
    command: list[str],
    *,
    port: int,
    folder: Path,
    health: str,
    environment: Mapping[str, str] | None = None,
    cores: list[int] | None = None,
    limit: float = START,
) -> Server:
    """Start a command on those cores, its output in a file; waits ``limit`` seconds until ``health`` answers 200."""
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LOQUENT_", "OPENAI_"))}
    with (folder / "server.log").open("ab") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,  # where no .env of ours is read
            env=inherited | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: pin(cores),
        )
    server = Server(name, port, process, folder, 0.0)
    try:
        _wait(server, health, limit)
    except BaseException:
        server.stop()
        raise
    server.start_ms = round((time.perf_counter() - began) * 1000, 1)
    return server


def pin(cores: list[int] | None) -> None:
    """Keep this process on those cores, where the system can, and let it open many connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if NICE:
        os.setsid()  # Linux weighs sessions, and niceness only within one: so a session of our own, and its weight
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
            Path("/proc/self/autogroup").write_text(str(NICE))


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module in this environment."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def _wait(server: Server, path: str, limit: float) -> None:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.name} ended at once:\n{server.log()}")
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            finally:
                connection.close()
        time.sleep(0.01)
    raise RuntimeError(f"{server.name} did not answer {path} within {limit:.0f} s:\n{server.log()}")
