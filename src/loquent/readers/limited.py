"""A limited child process for each file that nobody trusts: starts it, waits for it, ends it when it is too much."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loquent.domain.errors import Invalid, TooLarge, Unsupported

_CHUNK = 1 << 16
_ERRORS: Mapping[str, type[Invalid]] = {each.code: each for each in (Invalid, TooLarge, Unsupported)}

_OUT_OF_BOUNDS = (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL)


class Limited:
    """Asks a child about files, never more than ``at_once`` at a time; the others wait their turn."""

    def __init__(self, *, max_bytes: int, seconds: float, memory_bytes: int, at_once: int) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._turns = asyncio.Semaphore(at_once)

    async def ask(self, path: Path, asked: Mapping[str, Any], most: int) -> tuple[dict[str, Any], bytes]:
        """What the child says of the file at ``path``, and what follows that: ``most`` bytes of both, or so.

        Raises Invalid, TooLarge or Unsupported, as the child does, or for how it ended.
        """
        file = await asyncio.to_thread(self._opened, path)
        try:
            async with self._turns:
                answer, code = await self._answer_about(file, asked, most)
        finally:
            os.close(file)
        return _understood(answer, code)

    def _opened(self, path: Path) -> int:
        """The file, open; the child gets it so and never sees a path."""
        try:
            file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except OSError as fault:
            raise Invalid("the file cannot be opened", field="file") from fault
        size = os.fstat(file).st_size
        if size > self._max_bytes:
            os.close(file)
            raise TooLarge(f"the file has {size:,} bytes; at most {self._max_bytes:,} are taken", field="file")
        return file

    async def _answer_about(self, file: int, asked: Mapping[str, Any], most: int) -> tuple[bytes, int | None]:
        """What the child says about the file, and how it ended. It never outlives this call."""
        whole = {**asked, "memory_bytes": self._memory_bytes, "seconds": self._seconds}
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", "-m", "loquent.readers.child", json.dumps(whole)),
            stdin=file,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._seconds):
                answer = await _read(child, most)
                return answer, await child.wait()
        except TimeoutError:
            raise TooLarge(f"reading the file takes longer than {self._seconds:g} seconds", field="file") from None
        finally:
            await _ended(child)


async def _read(child: asyncio.subprocess.Process, most: int) -> bytes:
    """All that it writes, up to that many bytes."""
    assert child.stdout is not None  # noqa: S101 - it was asked for
    answer = bytearray()
    while data := await child.stdout.read(_CHUNK):
        answer += data
        if len(answer) > most + _CHUNK:
            raise TooLarge("what is in the file is larger than is taken", field="file")
    return bytes(answer)


def _understood(answer: bytes, code: int | None) -> tuple[dict[str, Any], bytes]:
    """The child's answer in its two parts, or as the error that it is."""
    head, line, body = answer.partition(b"\n")
    if not line:
        if code in _OUT_OF_BOUNDS:
            raise TooLarge("reading the file takes more time or memory than is given", field="file")
        raise Invalid("the file is broken: it cannot be read", field="file")
    told: dict[str, Any] = json.loads(head)
    if "error" in told:
        raise _ERRORS.get(told["error"], Invalid)(told["message"], field="file")
    return told, body


async def _ended(child: asyncio.subprocess.Process) -> None:
    """The child and whatever it may have started, gone, also where the caller was cancelled."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    while child.stdout is not None and await child.stdout.read(_CHUNK):
        pass  # its pipe is closed by reading to its end
    await child.wait()
