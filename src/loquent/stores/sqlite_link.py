"""A connection to SQLite: how it is made, how it ends, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from loquent.domain.errors import OutOfSpace, Unavailable

PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "FULL",  # an acknowledged write outlives a power cut
    "busy_timeout": "5000",  # milliseconds
    "foreign_keys": "ON",
    "temp_store": "MEMORY",
    "cache_size": "-16000",  # KiB, of each connection
    "wal_autocheckpoint": "4000",  # pages: a page that changes often is copied to the database less often
}


def connection(path: Path, pragmas: Mapping[str, str]) -> sqlite3.Connection:
    """A connection for one thread that leaves BEGIN and COMMIT to us. A new file is its owner's alone to read."""
    with suppress(OSError):  # SQLite itself says why it cannot be made
        # only one that is not there yet: to close a file that SQLite has open drops the locks of this whole process
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    # the module looks for a way to keep each None and bool, at a microsecond a row, unless it is told one
    sqlite3.register_adapter(type(None), {}.get)  # type: ignore[arg-type]  # its stub knows no None
    sqlite3.register_adapter(bool, int)
    opened = sqlite3.connect(path, isolation_level=None, cached_statements=512, check_same_thread=False)
    try:
        # the wait for a lock comes first: changing the journal's mode needs one
        for name, value in sorted(pragmas.items(), key=lambda pragma: pragma[0] != "busy_timeout"):
            opened.execute(f"PRAGMA {name}={value}").fetchall()
    except sqlite3.Error:
        opened.close()
        raise
    return opened


def close(dropped: sqlite3.Connection) -> None:
    """Undo and close without a word. Closing alone may leave the lock held, while a cursor still lives somewhere."""
    with suppress(sqlite3.Error):
        dropped.rollback()
    with suppress(sqlite3.Error):
        dropped.close()


def away(error: sqlite3.Error) -> Unavailable:
    """What callers are told."""
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
        return OutOfSpace("the disk of the database is full")
    return Unavailable(f"the database cannot be used now: {error}", retry_after=1)
