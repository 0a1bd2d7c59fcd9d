"""Lines of the log on their way out: gathered for a fifth of a second, then written at once, by a thread of its own.

They go to standard output, and to a file that is rotated by its size. Several processes may write to one file.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from select import PIPE_BUF
from typing import Protocol

from loquent.domain.log import Log

log = Log("loquent.log")
FLUSH = 0.2  # seconds for which a line may wait for others
MOST_WAITING = 100_000  # lines; what comes while so many wait for a place that takes none is dropped, and counted
MODE = 0o640  # of the file: what is logged is not everybody's


class Out(Protocol):
    """A place that lines are written to."""

    def write(self, lines: bytes) -> str | None:
        """Write whole lines; what is to be told of it. Never raises: a log that cannot be written stops nobody."""

    def close(self) -> None:
        """Let go."""


class Sink:
    """Lines that wait for one place."""

    __slots__ = ("_dropped", "_out", "_waiting", "_writer")

    def __init__(self, out: Out) -> None:
        self._out = out
        self._waiting: deque[bytes] = deque()
        self._writer: Writer | None = None
        self._dropped = 0

    def put(self, line: bytes) -> None:
        """Take a line; from any thread."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        writer = self._writer
        if writer is not None and not writer.is_rung:
            writer.ring()

    def belongs_to(self, writer: Writer) -> None:
        """Told once who writes what waits here."""
        self._writer = writer

    def write(self) -> list[str]:
        """Write all that waits, at once; what is to be told of it."""
        waiting = self._waiting
        told = [self._out.write(b"".join([waiting.popleft() for _ in range(len(waiting))]))] if waiting else []
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            told.append(f"{dropped} lines of the log were dropped: they came faster than they could be written")
        return [each for each in told if each]

    def close(self) -> None:
        """Let go of the place."""
        self._out.close()


class Writer:
    """The thread that writes, for all places; its own, so that a slow disk or a full pipe holds nobody up."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._bell, self._hurry = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._is_closed = False
        self.is_rung = False
        for sink in sinks:
            sink.belongs_to(self)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """There is something to write, soon."""
        self.is_rung = True
        self._bell.set()

    def hurry(self) -> None:
        """There is something to write now."""
        self._hurry.set()
        self.ring()

    def flush(self) -> None:
        """Write what waits, before this returns."""
        with self._lock:
            told = [each for sink in self._sinks for each in sink.write()]
        for each in told:  # not under the lock: logging has one of its own
            log.warning(each)

    def close(self) -> None:
        """Write what waits, then let go. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self.hurry()
        self._thread.join(timeout=5)
        self.flush()
        for sink in self._sinks:
            sink.close()

    def _run(self) -> None:
        while not self._is_closed:
            self._bell.wait()
            self._hurry.wait(FLUSH)
            self._bell.clear()
            self._hurry.clear()
            self.is_rung = False  # before it is written: what comes meanwhile rings again
            self.flush()


class StandardOutput:
    """Where the process's output goes. ``shared``: with others, whose lines ours must not be torn by."""

    def __init__(self, *, shared: bool = False) -> None:
        self._most = PIPE_BUF if shared else sys.maxsize  # bytes that a pipe takes as one (POSIX, write(2))

    def write(self, lines: bytes) -> str | None:
        """See Out. Who reads it may have gone, or have no room: then it is lost, and told in the file alone."""
        try:
            buffer = getattr(sys.stdout, "buffer", None)
            if buffer is None:
                sys.stdout.write(lines.decode())
            else:
                for piece in whole_lines(lines, self._most):
                    buffer.write(piece)
                    buffer.flush()
            sys.stdout.flush()
        except (OSError, ValueError, AttributeError):
            return None
        return None

    def close(self) -> None:
        """It is not ours."""


class File:
    """A file that grows to a size, is then called ``app.log.1``, and begins anew; so many of these are kept.

    Each write is one append of whole lines, so that those of several processes do not mix. Whoever finds the file full
    renames it under a lock on the file itself; the others see by its number that theirs is another one now.
    """

    def __init__(self, path: Path, *, size: int, keep: int) -> None:
        self._path = path
        self._size, self._keep = size, keep
        self._file = -1
        self._is_away = False

    def write(self, lines: bytes) -> str | None:
        """See Out. That it cannot is told once, on standard output; and it tries again each time."""
        try:
            self._open()
            if (size := os.fstat(self._file).st_size) and size + len(lines) > self._size:
                self._rotate()
                self._open()
            left = memoryview(lines)
            while left:
                left = left[os.write(self._file, left) :]
            self._is_away = False
        except OSError as error:
            self.close()
            if not self._is_away:
                self._is_away = True
                return f"the log file {self._path} cannot be written: {error.strerror or error}"
        return None

    def close(self) -> None:
        """See Out."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _open(self) -> None:
        """The file that stands at the path now."""
        if self._file >= 0 and self._is_current():
            return
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)

    def _is_current(self) -> bool:
        try:
            there, ours = self._path.stat(), os.fstat(self._file)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _rotate(self) -> None:
        """Rename them all by one, unless somebody else has done it while we waited for the lock."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if self._is_current():
                for number in range(self._keep - 1, 0, -1):
                    with suppress(FileNotFoundError):
                        self._rotated(number).replace(self._rotated(number + 1))
                self._path.replace(self._rotated(1))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _rotated(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def whole_lines(lines: bytes, most: int) -> Iterator[bytes]:
    """In pieces of whole lines with so many bytes at most; a line that is longer is a piece by itself."""
    at = 0
    while len(lines) - at > most:
        end = lines.rfind(b"\n", at, at + most) + 1 or lines.find(b"\n", at) + 1
        yield lines[at:end]
        at = end
    yield lines[at:]
