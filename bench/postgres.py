"""PostgreSQL in SQLite's place: the same requests before the same program, whose records lie on another server.

PostgreSQL is started for this run, durable (``fsync`` and ``synchronous_commit`` on), and kept on the last core beside
load and upstream, because a database lies elsewhere. So its own work is not the replica's, but it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from tests.postgres_server import PostgresServer, postgres_server

from bench.report import Result
from bench.rounds import Rig
from bench.rows import LEFT, OVER, Row, Spent, kept, loquent
from bench.servers import LOAD_CORE, Server, settle

CLIENTS = 32


def run(folder: Path, rounds: int, seconds: float, say: Callable[[str], None]) -> tuple[list[Result], list[str]]:
    """Both, in turn; the results and what was wrong."""
    with durable() as database:
        rows = [
            Row("sqlite", "records in SQLite", loquent(), kept),
            on_postgres("postgresql", "records in PostgreSQL", database, lambda url: loquent(LOQUENT_STORE=url)),
        ]
        return in_turn("postgres", rows, database, LOAD_CORE, folder, CLIENTS, rounds, seconds, say)


@contextmanager
def durable() -> Iterator[PostgresServer]:
    """A PostgreSQL that keeps what it says it has."""
    with postgres_server(fsync="on", synchronous_commit="on") as database:
        yield database


def on_postgres(
    name: str, what: str, database: PostgresServer, start: Callable[[str], Callable[[Path, Server], Server]]
) -> Row:
    """A row that keeps its records in a new database of that server; ``start`` takes the database's URL."""
    url = database.database()

    def begin(folder: Path, upstream: Server) -> Server:
        server = start(url)(folder, upstream)
        server.database = database.pid
        return server

    def stands(_: Path) -> Spent:
        with psycopg.connect(url) as opened:
            over, left = opened.execute(OVER).fetchone(), opened.execute(LEFT).fetchone()
            return Spent(*(over or ()), *(left or ()))

    return Row(name, what, begin, stands)


def in_turn(
    part: str,
    rows: list[Row],
    database: PostgresServer,
    cores: list[int],
    folder: Path,
    clients: int,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> tuple[list[Result], list[str]]:
    """Requests before the rows, whose database is kept on those cores; records are held against answers."""
    settle(database.pid, cores)
    with closing(Rig(rows, folder, starts=1, chunks=1, say=say)) as rig:
        settle(database.pid, cores)  # and the connections that were made meanwhile
        rig.requests([clients], rounds, seconds, part)
        rig.check_records()
        return rig.results, rig.wrong
