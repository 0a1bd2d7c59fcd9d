"""Text recognition: an embedded engine that reads the words in a picture, line by line, and knows nothing else of it.

RapidOCR on ONNX Runtime, whose models come within its package: nothing is fetched. It runs in a process of its own,
which is started for the first picture (some seconds) and ended when none has come for a while: native code that breaks
takes nothing with it, and what nobody waits for any more is ended with its process, at once. Rows are read from left
to right across the whole picture, also where it has columns. Temperature and its like mean nothing to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence

from loquent.domain.errors import EngineBusy, EngineFailed, EngineTimeout, Invalid, Unavailable
from loquent.domain.models import Model
from loquent.domain.requests import picture_of
from loquent.domain.usage import Usage, estimate_tokens
from loquent.engines import PACKAGES, Options, is_installed
from loquent.ports.engine import Ask, Chunk

MOST_WAITING = 64  # pictures; more are told to come later
IDLE_SECONDS = 600.0  # without a picture, after which the process and its memory are let go
NOTHING = "No text was found in the picture."
SIZE = 8  # bytes that say how long a message to the process, or from it, is
MOST_ANSWER = 16 * 1024 * 1024

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Ocr:
    """Reads one picture at a time; the others wait their turn."""

    def __init__(self, model: Model, options: Options) -> None:
        if not is_installed("ocr"):
            raise ImportError(name=" and ".join(PACKAGES["ocr"]))
        self._model = model
        self._threads = options.threads or max(1, (os.cpu_count() or 2) - 1)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._is_open = False

    async def open(self) -> None:
        """See the port. Nothing is started before there is a picture."""
        self._is_open = True

    async def close(self) -> None:
        """See the port."""
        self._is_open = False
        self._kill()
        async with self._turn:  # whoever was being read for has been told by now
            await self._end()

    async def ready(self) -> None:
        """See the port: what it takes is installed, or it would not be here."""

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port; there is one piece."""
        picture = picture_of(ask.messages)
        if self._waiting >= MOST_WAITING:
            raise EngineBusy(f"model {self._model.name}: too many pictures wait to be read", retry_after=10)
        self._waiting += 1
        try:
            async with self._turn:
                found = await self._read(picture.data, ask.model.timeouts.total)
        finally:
            self._waiting -= 1
        text = _until(in_rows(found) or NOTHING, ask.parameters.stop)
        said = " ".join(message.content for message in ask.messages)
        yield Chunk(text, "stop", Usage(max(1, estimate_tokens(said)), estimate_tokens(text), estimated=True))

    async def _read(self, data: bytes, seconds: float) -> list[tuple[Box, str]]:
        """The words in it and where they stand. However it does not end well, the process ends."""
        if not self._is_open:
            raise Unavailable(f"model {self._model.name}: the engine is closed")
        if self._idle is not None:
            self._idle.cancel()
        try:
            async with asyncio.timeout(seconds):
                told = json.loads(await self._ask(data))
        except TimeoutError:
            await self._end()
            raise EngineTimeout(f"model {self._model.name}: the picture was not read in time") from None
        except (OSError, EOFError, ValueError) as fault:
            await self._end()
            if not self._is_open:
                raise Unavailable(f"model {self._model.name}: the engine is closed") from None
            raise EngineFailed(f"model {self._model.name}: text recognition broke down over this picture") from fault
        except BaseException:
            await self._end()
            raise
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._kill)
        if "error" in told:
            raise Invalid(f"model {self._model.name}: {told['error']}", field="file")
        return [(tuple(box), text) for box, text in told["found"]]

    async def _ask(self, data: bytes) -> bytes:
        if self._process is None or self._process.returncode is not None:
            await self._end()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-s", "-P", "-B", "-X", "utf8", "-m", "loquent.engines.ocr_child"),
                str(self._threads),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))},
                start_new_session=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - they were asked for
        process.stdin.write(len(data).to_bytes(SIZE, "big") + data)
        await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(SIZE), "big")
        if size > MOST_ANSWER:
            raise ValueError("an answer without an end")
        return await process.stdout.readexactly(size)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _end(self) -> None:
        """The process, gone; a new one is started for the next picture."""
        if self._idle is not None:
            self._idle.cancel()
        self._kill()
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        while process.stdout is not None and await process.stdout.read(65_536):
            pass  # its pipe is closed by reading to its end
        await process.wait()


def in_rows(found: Sequence[tuple[Box, str]]) -> str:
    """The pieces as they are read: rows from above, in each from left to right."""
    rows: list[list[tuple[Box, str]]] = []
    for box, text in sorted(found, key=lambda each: each[0][1] + each[0][3]):
        middle = (box[1] + box[3]) / 2
        if rows and rows[-1][0][0][1] <= middle <= rows[-1][0][0][3]:
            rows[-1].append((box, text))
        else:
            rows.append([(box, text)])
    return "\n".join(" ".join(text for _, text in sorted(row)) for row in rows)


def _until(text: str, stops: tuple[str, ...]) -> str:
    """What comes before the first stop string."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]
