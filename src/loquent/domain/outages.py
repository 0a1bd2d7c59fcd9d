"""Outages: a part that is away is told of when it goes, each minute while it stays away, and when it is back."""

from __future__ import annotations

import threading

from loquent.domain.clock import SECOND, Moment, now
from loquent.domain.log import Log

REMIND = 60.0  # seconds between lines while it stays away
FORGET = 20.0  # seconds after which what failed and is not asked for any more holds nothing up: looks come every 15


class Outage:
    """What the log is told of one part, by all who ask it, in any thread; in between, nothing.

    Where only some of what is asked of it fails (a full disk can be read), it is back when what failed works again, or
    has not been asked for since a while.
    """

    def __init__(self, log: Log, *, gone: str, back: str) -> None:
        self._log, self._gone, self._back = log, gone, back
        self._failed: dict[str, Moment] = {}  # when each was last asked in vain, by what was asked; empty: all is well
        self._since = self._told = Moment(0)
        self._well: Moment | None = None  # since when nothing has failed
        self._lock = threading.Lock()

    def gone(self, what: str, why: str) -> None:
        """Asked for that, it did not answer."""
        with self._lock:
            present = now()
            is_new = not self._failed
            self._failed[what], self._well = present, None
            if is_new:
                self._since = self._told = present
                self._log.warning(self._gone, why=why)
            elif present - self._told >= REMIND * SECOND:
                self._told = present
                self._log.warning(self._gone, why=why, seconds=round((present - self._since) / SECOND))

    def back(self, what: str) -> None:
        """Asked for that, it answered."""
        if not self._failed:
            return  # without the lock: this is on every way
        with self._lock:
            present = now()
            was_gone = bool(self._failed)
            self._failed.pop(what, None)
            self._well = self._well or present
            if was_gone and not any(present - last < FORGET * SECOND for last in self._failed.values()):
                self._failed.clear()
                self._log.info(self._back, seconds=round((self._well - self._since) / SECOND, 1))
