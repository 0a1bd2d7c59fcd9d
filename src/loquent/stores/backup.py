"""A backup of an SQLite: one whole file, as the records stood at one moment, made while others read and write."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from loquent.domain.errors import Misconfigured, Unavailable

PATIENCE = 60.0  # seconds that it waits for a lock


def back_up(database: Path, file: Path) -> None:
    """Write it to a file that is not there yet, for its owner alone, and look whether that is sound.

    Raises Misconfigured where there is nothing to read or no place to write, Unavailable where it came to nothing.
    """
    if not database.is_file():
        raise Misconfigured(f"{database} is not there: LOQUENT_STORE or LOQUENT_DATA_DIR names the database")
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise Misconfigured(f"{file} cannot be written: {error.strerror}; name a file that is not there yet") from error
    try:
        with closing(sqlite3.connect(database, timeout=PATIENCE, isolation_level=None)) as opened:
            opened.execute("VACUUM INTO ?", (str(file),))
        with closing(sqlite3.connect(file)) as opened:
            [(said,)] = opened.execute("PRAGMA integrity_check(1)")
        _settle(file)
    except (sqlite3.Error, OSError) as error:
        file.unlink(missing_ok=True)
        raise Unavailable(f"there is no backup: {error}") from error
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    if said != "ok":
        file.unlink()
        raise Unavailable(f"there is no backup, for {database} is damaged: {said}")


def _settle(file: Path) -> None:
    """The file, and its name, are durable when this returns."""
    for place in (file, file.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
