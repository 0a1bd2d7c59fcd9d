"""The parent's side of reading: it starts a child for each file, waits for it, and ends it when it is too much."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from loquent.domain.errors import Invalid, TooLarge, Unsupported
from loquent.ports.reader import ReadText
from loquent.readers.kinds import KINDS, check_ending

_CHUNK = 1 << 16
_ERRORS: Mapping[str, type[Invalid]] = {each.code: each for each in (Invalid, TooLarge, Unsupported)}

_OUT_OF_BOUNDS = (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL)


class FileReader:
    """Reads .txt, .md, .pdf and .docx. Never more than ``at_once`` files at a time; the others wait their turn."""

    kinds: Mapping[str, str] = KINDS

    def __init__(
        self, *, max_bytes: int, max_characters: int, seconds: float, memory_bytes: int, at_once: int = 2
    ) -> None:
        self._max_bytes = max_bytes
        self._max_characters = max_characters
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._turns = asyncio.Semaphore(at_once)

    async def read(self, path: Path, name: str) -> ReadText:
        """The text of the file at ``path``; of ``name`` only the ending is used."""
        ending = check_ending(name)
        file = await asyncio.to_thread(self._opened, path)
        try:
            async with self._turns:
                answer, code = await self._ask(file, ending)
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

    async def _ask(self, file: int, ending: str) -> tuple[bytes, int | None]:
        """What the child says about the file, and how it ended. It never outlives this call."""
        asked = {
            "ending": ending,
            "max_characters": self._max_characters,
            "memory_bytes": self._memory_bytes,
            "seconds": self._seconds,
        }
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-s", "-P", "-B", "-X", "utf8", "-m", "loquent.readers.child", json.dumps(asked)),
            stdin=file,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._answer(child)
                return answer, await child.wait()
        except TimeoutError:
            raise TooLarge(f"reading the file takes longer than {self._seconds:g} seconds", field="file") from None
        finally:
            await _ended(child)

    async def _answer(self, child: asyncio.subprocess.Process) -> bytes:
        """All that it writes, up to what the longest text could need."""
        assert child.stdout is not None  # noqa: S101 - it was asked for
        answer = bytearray()
        while data := await child.stdout.read(_CHUNK):
            answer += data
            if len(answer) > 4 * self._max_characters + _CHUNK:
                raise TooLarge("the text of the file is longer than is taken", field="file")
        return bytes(answer)


def _understood(answer: bytes, code: int | None) -> ReadText:
    """The child's answer as text, or as the error that it is."""
    head, line, body = answer.partition(b"\n")
    if not line:
        if code in _OUT_OF_BOUNDS:
            raise TooLarge("reading the file takes more time or memory than is given", field="file")
        raise Invalid("the file is broken: it cannot be read", field="file")
    told = json.loads(head)
    if "error" in told:
        raise _ERRORS.get(told["error"], Invalid)(told["message"], field="file")
    return ReadText(body.decode(), told["kind"], told["pages"])


async def _ended(child: asyncio.subprocess.Process) -> None:
    """The child and whatever it may have started, gone, also where the caller was cancelled."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    while child.stdout is not None and await child.stdout.read(_CHUNK):
        pass  # its pipe is closed by reading to its end
    await child.wait()
