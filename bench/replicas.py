"""Two replicas of Loquent on one PostgreSQL beside one, the same clients before both, as a balancer would share them.

With four cores or more each replica has one of its own, PostgreSQL has those between, load and upstream have the last.
With fewer both replicas share the first, so that two answer as much as one at best; what two cost beyond one is then
seen in that and in the processor's time of an answer. Where neither is worse, two cores carry two replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from secrets import token_urlsafe

from bench.postgres import durable, in_turn, on_postgres
from bench.report import CORES_FOR_OWN, Result
from bench.rows import loquent
from bench.servers import CORES, LOAD_CORE, SERVER_CORE, Server

CLIENTS = 128  # 64 each: groups of records are large before one and before two
OWN = len(CORES) >= CORES_FOR_OWN
FIRST, SECOND = SERVER_CORE, CORES[1:2] if OWN else SERVER_CORE
BETWEEN = CORES[2:-1] if OWN else LOAD_CORE


def run(folder: Path, rounds: int, seconds: float, say: Callable[[str], None]) -> tuple[list[Result], list[str]]:
    """One and two, in turn; the results and what was wrong."""
    with durable() as database:
        rows = [
            on_postgres("1 replica", "alone", database, lambda url: loquent(cores=FIRST, LOQUENT_STORE=url)),
            on_postgres("2 replicas", "side by side", database, _two),
        ]
        results, wrong = in_turn("replicas", rows, database, BETWEEN, folder, CLIENTS, rounds, seconds, say)
    return [each | {"cores": len(CORES)} for each in results], wrong


def _two(url: str) -> Callable[[Path, Server], Server]:
    shared = {"LOQUENT_STORE": url, "LOQUENT_SECRET": token_urlsafe(32)}

    def begin(folder: Path, upstream: Server) -> Server:
        first = loquent(cores=FIRST, **shared)(folder / "first", upstream)
        try:
            second = loquent(cores=SECOND, bearer=first.bearer, **shared)(folder / "second", upstream)
        except BaseException:
            first.stop()
            raise
        return replace(first, beside=[second])

    return begin
