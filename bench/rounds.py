"""Runs the rows in turn, round after round, and collects what came of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.rows import Row, Spent
from bench.servers import LOAD_CORE, ROOT, SERVER_CORE, Server, busy, family, free_port, pin, python, start, weigh
from bench.upstream import COMPLETION_TOKENS, PROMPT_TOKENS

Result = dict[str, Any]
CHAT = "/v1/chat/completions"


def load(server: Server, form: str, *, path: str = CHAT, cores: list[int] | None = None, **options: object) -> Result:
    """Run the load generator against a server, in a process of its own; adds the server's processor time."""
    options["bearer"] = server.bearer
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    before, _ = server.weigh()
    stored = _database(server)
    worked, began = busy(), time.monotonic()
    ran = subprocess.run(
        python("bench.load", form, "--url", ",".join(url + path for url in server.urls), *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: pin(LOAD_CORE if cores is None else cores),
        check=True,
    )
    after, memory = server.weigh()
    told: Result = json.loads(ran.stdout)
    told |= {"cpu_seconds": round(after - before, 3), "resident_mb": round(memory, 1)}
    if server.database:
        told["database_seconds"] = round(_database(server) - stored, 3)
    if cores is None:  # the part of the servers' core that went to somebody else
        told["others"] = round((busy() - worked - (after - before)) / (time.monotonic() - began), 3)
    return told


def _database(server: Server) -> float:
    return weigh(family(server.database))[0] if server.database else 0.0


class Rig:
    """The mock upstream and the rows before it, all running; only the one that is measured has work."""

    def __init__(self, rows: list[Row], folder: Path, *, starts: int, chunks: int, say: Callable[[str], None]) -> None:
        self.rows, self.chunks, self.say = rows, chunks, say
        self.folder = folder
        self.servers: dict[str, Server] = {}
        self.spent = {row.name: Spent() for row in rows}
        self.results: list[Result] = []
        self.wrong: list[str] = []
        port = free_port()
        upstream = python("bench.upstream", "--port", port, "--chunks", chunks)
        self.upstream = start(
            "upstream", upstream, port=port, folder=folder / "upstream", health="/v1/models", cores=LOAD_CORE
        )
        try:
            for row in rows:
                self._start(row, starts)
        except BaseException:
            self.close()
            raise

    def requests(self, clients: Iterable[int], rounds: int, seconds: float, part: str = "requests") -> None:
        """Closed-loop requests at each number of clients."""
        for count in clients:
            for number in range(1, rounds + 1):
                self._disk(number)
                for row in self.rows:
                    told = load(self.servers[row.name], "requests", clients=count, seconds=seconds)
                    told["cpu_ms"] = round(told["cpu_seconds"] * 1000 / max(told["ok"], 1), 4)
                    if "database_seconds" in told:
                        told["database_ms"] = round(told["database_seconds"] * 1000 / max(told["ok"], 1), 4)
                    tokens = told["ok"] * PROMPT_TOKENS, told["ok"] * COMPLETION_TOKENS
                    self._keep(row, told | {"part": part, "clients": count, "round": number}, told["ok"], *tokens)
                    self.say(
                        f"{count:4} clients, round {number}  {row.name:16} {told['per_second']:9,.0f} requests/s"
                        f"   p50 {told['p50_ms']:8.3f} ms   p99 {told['p99_ms']:8.3f} ms   {_faults(told)}"
                    )

    def streams(self, count: int, rounds: int) -> None:
        """That many streams, opened within a second."""
        for number in range(1, rounds + 1):
            for row in self.rows:
                told = load(self.servers[row.name], "streams", streams=count, chunks=self.chunks)
                told["cpu_ms"] = round(told["cpu_seconds"] * 1000 / max(told["ok"], 1), 4)
                tokens = told["prompt_tokens"], told["completion_tokens"]
                self._keep(row, told | {"part": "streams", "round": number}, told["ok"], *tokens)
                self.say(
                    f"{count:4} streams, round {number}  {row.name:16} {told['per_second']:9,.0f} chunks/s"
                    f"   TTFT p50 {told['p50_ms']:8.1f} ms   p99 {told['p99_ms']:8.1f} ms   {_faults(told)}"
                )

    def check_records(self) -> None:
        """What was answered must have been kept, each answer once, with its tokens."""
        for row in self.rows:
            if row.records is None:
                continue
            kept, spent = row.records(self.servers[row.name].folder), self.spent[row.name]
            self.results.append({"part": "records", "row": row.name, "answered": asdict(spent), "kept": asdict(kept)})
            self.say(f"{row.name}: answered {spent}\n{' ' * len(row.name)}  kept     {kept}")
            if kept != spent:
                self.wrong.append(f"{row.name}: what was answered is not what was kept")

    def close(self) -> None:
        """End every server."""
        for server in (*self.servers.values(), self.upstream):
            server.stop()

    def _disk(self, number: int) -> None:
        command = python("bench.disk", self.folder)
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=lambda: pin(SERVER_CORE), check=True)
        self.results.append({"part": "disk", "row": "disk", "round": number} | json.loads(ran.stdout))

    def _start(self, row: Row, starts: int) -> None:
        times = []
        for number in range(1, starts + 1):
            server = row.start(self.folder / f"{row.name}-{number}", self.upstream)
            if server is self.upstream:
                self.servers[row.name] = server
                return
            times.append(server.start_ms)
            if number < starts:
                server.stop()
        self.servers[row.name] = server
        _, server.idle_mb = server.weigh()
        self.results.append({"part": "start", "row": row.name, "start_ms": times, "idle_mb": round(server.idle_mb, 1)})
        self.say(f"{row.name} is up: {', '.join(f'{each:.0f}' for each in times)} ms, {server.idle_mb:.0f} MB")

    def _keep(self, row: Row, result: Result, answers: int, prompt_tokens: int, completion_tokens: int) -> None:
        self.results.append({"row": row.name} | result)
        self.spent[row.name] = self.spent[row.name].plus(answers, prompt_tokens, completion_tokens)
        if result["errors"]:
            self.wrong.append(f"{row.name}: {result['errors']} in round {result['round']} of {result['part']}")


def _faults(told: Result) -> str:
    return f"errors {told['errors']}" if told["errors"] else ""
