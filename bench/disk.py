"""What one durable commit costs on this disk: the floor under any answer that waits for its record.

``python -m bench.disk FOLDER`` commits one row after the other, as Loquent's SQLite does: WAL, ``synchronous=FULL``.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter

TIMES = 200
ROW = "x" * 1000


def commits(folder: Path) -> list[float]:
    """Seconds that each of TIMES commits of about a record's size took."""
    times = []
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        closing(sqlite3.connect(Path(place) / "disk.db", isolation_level=None)) as database,
    ):
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        database.execute("create table records (id integer primary key, text)")
        for number in range(TIMES):
            began = perf_counter()
            database.execute("insert into records values (?, ?)", (number, ROW))
            times.append(perf_counter() - began)
    return times


if __name__ == "__main__":
    from bench.load import at

    found = commits(Path(sys.argv[1]))
    print(json.dumps({"p50_ms": at(found, 0.5), "p99_ms": at(found, 0.99)}))
