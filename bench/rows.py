"""The rows of the bench: who is measured, how each is started, and how its records are checked.

A peer is one more row: a function that starts it before the given upstream, and a line in ROWS.
"""

from __future__ import annotations

import http.client
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from bench.servers import SERVER_CORE, Server, free_port, python, start


@dataclass(frozen=True)
class Spent:
    """What all rounds together should have left behind: answers of status 200 and their tokens."""

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unfinished: int = 0  # records that are not completed, or completed and still due for work

    def plus(self, answers: int, prompt_tokens: int, completion_tokens: int) -> Spent:
        """This and more."""
        return replace(
            self,
            answers=self.answers + answers,
            prompt_tokens=self.prompt_tokens + prompt_tokens,
            completion_tokens=self.completion_tokens + completion_tokens,
        )


@dataclass(frozen=True)
class Row:
    """Somebody who is measured."""

    name: str
    what: str
    start: Callable[[Path, Server], Server]  # in this folder, before this upstream
    records: Callable[[Path], Spent] | None = None  # what was kept, where something is


def _direct(folder: Path, upstream: Server) -> Server:
    return upstream


def _bare(folder: Path, upstream: Server) -> Server:
    port = free_port()
    options = ("--port", port, "--loop", "uvloop", "--http", "httptools", "--no-access-log")
    return start(
        "bare",
        python("uvicorn", "bench.proxy:app", "--host", "127.0.0.1", *options),
        port=port,
        folder=folder,
        health="/health",
        environment={"BENCH_UPSTREAM": upstream.url},
        cores=SERVER_CORE,
    )


def loquent(
    kind: str = "granian", cores: list[int] = SERVER_CORE, bearer: str = "", **environment: str
) -> Callable[[Path, Server], Server]:
    """How Loquent is started on those cores; with a ``bearer`` nobody logs in, because somebody has."""

    def begin(folder: Path, upstream: Server) -> Server:
        return start_loquent(
            folder,
            f"""
            [[model]]
            name = "bench"
            engine = "openai"
            url = "{upstream.url}/v1"
            id = "bench"
            abilities = ["text", "chat"]
            price = {{input = 1, output = 2}}
            """,
            {"LOQUENT_SERVER": kind, **environment},
            cores=cores,
            bearer=bearer,
        )

    return begin


def start_loquent(
    folder: Path, models: str, environment: dict[str, str], *, cores: list[int], bearer: str = ""
) -> Server:
    """Loquent as shipped, in an empty folder, closed to strangers, limits on but out of reach; a user logs in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models.toml").write_text(models)
    port = free_port()
    script = Path(sys.executable).with_name("loquent")
    server = start(
        "loquent",
        [str(script), "serve"] if script.exists() else python("loquent", "serve"),
        port=port,
        folder=folder,
        health="/api/v1/health",
        environment={
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "LOQUENT_DATA_DIR": str(folder / "data"),
            "LOQUENT_MODELS": str(folder / "models.toml"),
            "LOQUENT_ANONYMOUS": "off",
            "LOQUENT_LIMIT_GENERATIONS": "100000000/minute",
            "LOQUENT_TOKEN_MINUTES": "600",
            **environment,
        },
        cores=cores,
    )
    try:
        server.bearer = bearer or _token(port)
    except BaseException:
        server.stop()
        raise
    return server


def _token(port: int) -> str:
    name, password = "bench", "a password for the bench"
    _post(port, "/api/v1/users", json.dumps({"username": name, "password": password}), "application/json")
    form = urlencode({"username": name, "password": password})
    return str(_post(port, "/api/v1/token", form, "application/x-www-form-urlencoded")["access_token"])


def _post(port: int, path: str, body: str, kind: str) -> dict[str, object]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status not in (200, 201):
            raise RuntimeError(f"POST {path}: {answer.status} {data[:300]!r}")
        read: dict[str, object] = json.loads(data)
        return read


OVER = """SELECT count(*), CAST(coalesce(sum(prompt_tokens), 0) AS bigint),
          CAST(coalesce(sum(completion_tokens), 0) AS bigint)
          FROM generations WHERE status = 'completed'"""
LEFT = "SELECT count(*) FROM generations WHERE status <> 'completed' OR due_at IS NOT NULL"


def kept(folder: Path) -> Spent:
    """What stands in the database, committed, seen by a connection of our own."""
    url = f"file:{folder / 'data' / 'loquent.db'}?mode=ro"
    with closing(sqlite3.connect(url, uri=True)) as database:
        return Spent(*database.execute(OVER).fetchone(), *database.execute(LEFT).fetchone())


IN_MEMORY = Row("loquent", "the same with its records in memory: without the disk", loquent(LOQUENT_STORE="memory:"))
ROWS = {
    row.name: row
    for row in (
        Row("direct", "the upstream itself: the limit of this rig", _direct),
        Row("bare", "a Starlette proxy that only passes bytes through, uvicorn", _bare),
        Row("loquent", "complete: token, limits, durable record, usage; granian", loquent(), kept),
        Row("loquent-uvicorn", "the same on uvicorn", loquent("uvicorn"), kept),
    )
}
