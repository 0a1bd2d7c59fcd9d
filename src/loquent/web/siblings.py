"""The metrics of all server processes on one port: whichever is asked asks the others, and tells them apart."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

SECONDS = 5.0  # in which another one, and its own parts, must have answered; who does not is left out, as one that died
Page = Callable[[], Awaitable[bytes]]
"""The metrics of this process alone."""
SAMPLE = re.compile(rb"^(\w+)(?:\{(.*)\})? (.*)$")


class Siblings:
    """Each has a socket in a folder of theirs, named by its number, and gives its page to whoever connects."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._number = 0
        self._server: asyncio.Server | None = None

    async def join(self, folder: Path, number: int, own: Page) -> None:
        """Be one of several from now on."""

        async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await own())
            writer.close()

        place = folder / f"{number}.metrics"
        place.unlink(missing_ok=True)  # of one that has died in this place
        self._server = await asyncio.start_unix_server(give, place)
        self._folder, self._number = folder, number

    async def leave(self) -> None:
        """Be one by itself again."""
        if self._server is not None:
            self._server.close()
            self._server = self._folder = None

    async def page(self, own: Page) -> bytes:
        """All metrics in Prometheus' text form; of several processes, labelled with the number of each."""
        if self._folder is None:
            return await own()
        places = sorted(self._folder.glob("*.metrics"), key=lambda place: int(place.stem))
        others = [place for place in places if int(place.stem) != self._number]
        ours, *theirs = await asyncio.gather(own(), *map(_take, others))
        numbers = [int(place.stem) for place in others]
        return together({self._number: ours, **dict(zip(numbers, theirs, strict=True))})


def together(pages: dict[int, bytes]) -> bytes:
    """One page of several, each metric's samples below one head."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for number, page in sorted(pages.items()):
        name = b""
        for line in page.splitlines():
            if line.startswith(b"#"):
                name = line.split(b" ", 3)[2]
                if line not in heads.setdefault(name, []):
                    heads[name].append(line)
            elif found := SAMPLE.match(line):
                labels = b",".join(filter(None, (b'process="%d"' % number, found[2])))
                samples.setdefault(name, []).append(b"%s{%s} %s" % (found[1], labels, found[3]))
    return b"".join(b"\n".join((*lines, *samples.get(name, ()), b"")) for name, lines in heads.items())


async def _take(place: Path) -> bytes:
    """The page of another; nothing where it is gone, or too slow."""
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_unix_connection(place)
            try:
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


siblings = Siblings()
"""Where this process stands, as its registry of metrics is this process's."""
