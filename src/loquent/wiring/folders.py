"""The folders of this machine: who uses the data folder, and which disks are watched."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import IO

from loquent import blobs, stores
from loquent.domain.errors import Misconfigured
from loquent.services.room import Room
from loquent.settings import Settings

OWN = ("sqlite", "memory")
"""Stores that all who use them share this machine by; any other is shared by who knows whom."""


def make_folder(data_dir: Path) -> None:
    """Make the data folder where it is missing. Raises Misconfigured."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"LOQUENT_DATA_DIR holds {str(data_dir)!r}; it takes a folder: {error}") from error


def room_of(found: Settings) -> Room:
    """The room in the folders that the settings have us write to."""
    database = stores.file_of(found.store_url)
    rows = database.absolute().parent if database else None
    return Room(rows, blobs.folder_of(found.blobs_url), data=found.data_dir, reserve=found.free_space)


class Lock:
    """Says that this process uses the data folder, or the database wherever that lies, while it is held."""

    def __init__(self, found: Settings) -> None:
        database = stores.file_of(found.store_url)
        self._place = Path(f"{database}.in-use") if database else found.data_dir / "in-use"
        self._is_own = found.store_url.startswith(OWN)
        self._file: IO[bytes] | None = None

    def take(self) -> bool:
        """Hold it; whether this process is the only one that does.

        Others wait until that one shares it, having taken up what nobody runs any more: what they take then is not
        its to take.
        """
        self._place.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._place.open("ab")
        if self._is_own:
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        self.share()
        return False

    def share(self) -> None:
        """Let others hold it, too."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def close(self) -> None:
        """Hold it no longer."""
        if self._file is not None:
            self._file.close()
            self._file = None
