"""Whether growth costs anything: a page of history among a hundred times as many, a turn of a chat that is long.

Through the services, in one process, on SQLite as shipped; ``python -m bench.history FOLDER ROUNDS`` is that process.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from bench.load import at
from bench.report import Result
from bench.servers import ROOT, SERVER_CORE, pin, python
from loquent import settings
from loquent.domain import ids
from loquent.domain.clock import later, now
from loquent.domain.generations import COMPLETED, FAILED, FOREGROUND, Generation, begin
from loquent.domain.principals import Principal
from loquent.services.history import Filters, History
from loquent.services.sessions import Manner
from loquent.stores import connect
from loquent.stores.rows import rows_of
from loquent.stores.sql_statements import Statements
from loquent.stores.sqlite_threads import Threads
from loquent.wiring import Services, build

T = TypeVar("T")

OWNER = Principal("default", "usr_bench", "bench")
FEW, MANY = 10_000, 1_000_000  # generations of one owner
LIMIT, PAGES = 50, 200  # generations of a page; pages of each kind in a round
SHORT, LONG, TURNS = 2, 200, 100  # earlier turns; turns that are measured in a round
MESSAGE = "and what did the guild of Brugg send over the pass in that year and in the year after it"
MODELS = """
[[model]]
name = "echo"
engine = "echo"
id = "echo"
context = 220
"""
"""A context that holds two earlier turns and no more, so that both sessions take along as much."""


def run(folder: Path, rounds: int, say: Callable[[str], None]) -> tuple[list[Result], list[str]]:
    """The results of that many rounds, and what was wrong."""
    place = folder / "history"
    place.mkdir()
    say(f"history: {FEW:,} and {MANY:,} generations are put into two databases")
    ran = subprocess.run(
        python("bench.history", place, rounds),
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: pin(SERVER_CORE),
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip()[-2000:])
    found: list[Result] = json.loads(ran.stdout)
    for each in found:
        say(f"{each['part']}: {each['row']}, {each['where']}: {each['p50_ms']:.3f} ms")
    return found, []


async def pages(folder: Path, rounds: int) -> list[Result]:
    """The first page and one from anywhere, of few and of many, in turn."""
    found: list[Result] = []
    async with filled(folder / "few.db", FEW) as few, filled(folder / "many.db", MANY) as many:
        histories = {f"{FEW:,}": few, f"{MANY:,}": many}
        for number in range(rounds):
            for where in ("first", "anywhere"):
                times: dict[str, list[float]] = {row: [] for row in histories}
                for _ in range(PAGES):
                    share = random.uniform(0.01, 1) if where == "anywhere" else 1.0
                    for row, (history, kept) in _shuffled(histories):
                        end = int(len(kept) * share)
                        after = kept[end] if end < len(kept) else None
                        began = perf_counter()
                        page = await history.page(OWNER, Filters(), limit=LIMIT, after=after)
                        times[row].append(perf_counter() - began)
                        if [each.id for each in page.items] != kept[end - LIMIT : end][::-1]:
                            raise RuntimeError("a page is not what it should be")
                found += [_result("history", row, where, number, each) for row, each in times.items()]
    return found


@asynccontextmanager
async def filled(path: Path, count: int) -> AsyncIterator[tuple[History, list[str]]]:
    """The history of somebody who has so many generations, one a second until now; and their ids, oldest first."""
    store = connect(f"sqlite:///{path}", data_dir=path.parent)
    await store.upgrade()
    made = await asyncio.to_thread(_fill, path, count)
    await store.open()
    try:
        yield History(store), made
    finally:
        await store.close()


def _fill(path: Path, count: int) -> list[str]:
    """Put the rows straight into the table, as the program itself would write them."""
    rows = rows_of(Generation)
    add = Statements(Threads.dialect).add(rows).sql
    patterns = [rows.row(each, 1) for each in _patterns()]
    id_at, created_at = rows.place["id"], rows.place["created_at"]
    start = later(now(), -count)
    made: list[str] = []

    def written() -> Iterator[list[object]]:
        for number in range(count):
            moment = later(start, number)
            row = list(patterns[number % len(patterns)])
            row[id_at], row[created_at] = f"{ids.floor('gen', moment)[:-16]}{random.getrandbits(63):016x}", moment
            made.append(row[id_at])
            yield row

    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("PRAGMA synchronous=OFF")  # it is a bench's own data; the store opens it as it always does
        opened.execute("BEGIN")
        opened.executemany(add, written())
        opened.execute("COMMIT")
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return made


def _patterns() -> Iterator[Generation]:
    """Some of every kind, model and outcome, with texts as long as a list shows them."""
    for kind, surface, model in (
        ("text", "api", "echo"),
        ("chat", "chat", "echo"),
        ("summary", "summaries", "extractive"),
        ("document", "documents", "echo"),
        ("image", "images", "seer"),
    ):
        for status in (COMPLETED, COMPLETED, COMPLETED, FAILED):
            made = begin(
                OWNER,
                kind=kind,
                surface=surface,
                mode=FOREGROUND,
                model=model,
                parameters={"temperature": 0.5},
                text=MESSAGE * 3,
                due_at=None,
            )
            preview = (MESSAGE * 3)[:200]
            yield replace(made, status=status, due_at=None, completed_at=made.created_at, output_preview=preview)


async def turns(folder: Path, rounds: int) -> list[Result]:
    """A turn of a chat with two earlier turns, and of one with two hundred and more, in turn."""
    found: list[Result] = []
    async with serving(folder) as services:
        long = await _session(services, LONG)
        said = LONG
        for number in range(rounds):
            times: dict[str, list[float]] = {f"{SHORT}": [], f"{LONG}": []}
            for _ in range(TURNS):
                short = await _session(services, SHORT)
                left_out = {f"{SHORT}": (short, 0), f"{LONG}": (long, said - SHORT)}
                for row, (session, left) in _shuffled(left_out):
                    times[row].append(await _turn(services, session, left_out=left))
                said += 1
            found += [_result("turn", row, "earlier turns", number, each) for row, each in times.items()]
    return found


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Services]:
    """The services on SQLite, with a model that costs nothing and limits out of reach."""
    rows = folder / "models.toml"
    rows.write_text(MODELS)
    limits = {f"LOQUENT_LIMIT_{rule}": "1000000/minute" for rule in ("MESSAGES", "SESSIONS", "GENERATIONS")}
    found = settings.read({"LOQUENT_DATA_DIR": str(folder / "data"), "LOQUENT_MODELS": str(rows), **limits})
    services = build(found)
    await services.open(works=False)
    try:
        yield services
    finally:
        await services.close()


async def _session(services: Services, earlier: int) -> str:
    session, _ = await services.sessions.create(OWNER, surface="bench")
    for number in range(earlier):
        await _turn(services, session.id, left_out=max(0, number - SHORT))
    return session.id


async def _turn(services: Services, session: str, *, left_out: int) -> float:
    began = perf_counter()
    begun = await services.sessions.send(OWNER, session, MESSAGE, Manner("bench"))
    await services.generations.collect(begun)
    seconds = perf_counter() - began
    generation, content = begun.now()
    if (generation.status, content.output, generation.turns_left_out) != (COMPLETED, MESSAGE, left_out):
        raise RuntimeError(f"turn {generation.turn}: {generation.status}, {generation.turns_left_out} left out")
    return seconds


def _shuffled(rows: Mapping[str, T]) -> list[tuple[str, T]]:
    """The rows, now one and now the other first: who comes second finds other caches than the first."""
    return random.sample(list(rows.items()), len(rows))


def _result(part: str, row: str, where: str, number: int, times: list[float]) -> Result:
    milliseconds = {"p50_ms": at(times, 0.5), "p99_ms": at(times, 0.99)}
    return {"part": part, "row": row, "where": where, "round": number, **milliseconds}


async def _measure(folder: Path, rounds: int) -> list[Result]:
    return [*await turns(folder, rounds), *await pages(folder, rounds)]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(Path(sys.argv[1]), int(sys.argv[2])))))
