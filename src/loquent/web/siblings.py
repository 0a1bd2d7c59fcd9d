"""The metrics of all server processes on one port: whichever is asked asks the others, and tells them apart."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from string import ascii_lowercase

SECONDS = 5.0  # in which another one, and its own parts, must have answered; who does not is left out, as one that died
Page = Callable[[], Awaitable[bytes]]
"""The metrics of this process alone."""
SAMPLE = re.compile(rb"^(\w+)(?:\{(.*)\})? (.*)$")


class Siblings:
    """Each has a socket in a folder of theirs, by its name, and gives its page to whoever connects."""

    def __init__(self) -> None:
        self._place: Path | None = None
        self._server: asyncio.Server | None = None

    async def join(self, folder: Path, number: int, own: Page) -> None:
        """Be one of several from now on: by that number, or 0b, 0c, … while who had it before has not ended.

        So no two share a name at a time, and a counter begins anew only when the one that counted has ended.
        """

        async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await own())
            writer.close()

        for letter in ("", *ascii_lowercase[1:]):
            place = folder / f"{number}{letter}.metrics"
            if not await _is_there(place):
                break
        place.unlink(missing_ok=True)  # of one that has died
        self._server = await asyncio.start_unix_server(give, place)
        self._place = place

    async def leave(self) -> None:
        """Be one by itself again."""
        if self._server is not None:
            self._server.close()
            self._server = self._place = None

    async def page(self, own: Page) -> bytes:
        """All metrics in Prometheus' text form; of several processes, labelled with the name of each."""
        if self._place is None:
            return await own()
        places = [self._place, *(each for each in self._place.parent.glob("*.metrics") if each != self._place)]
        pages = await asyncio.gather(own(), *map(_take, places[1:]))
        return together({place.stem: page for place, page in zip(places, pages, strict=True)})


def together(pages: dict[str, bytes]) -> bytes:
    """One page of several, each metric's samples below one head."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for process, page in sorted(pages.items()):
        name = b""
        for line in page.splitlines():
            if line.startswith(b"#"):
                name = line.split(b" ", 3)[2]
                if line not in heads.setdefault(name, []):
                    heads[name].append(line)
            elif found := SAMPLE.match(line):
                labels = b",".join(filter(None, (b'process="%s"' % process.encode(), found[2])))
                samples.setdefault(name, []).append(b"%s{%s} %s" % (found[1], labels, found[3]))
    return b"".join(b"\n".join((*lines, *samples.get(name, ()), b"")) for name, lines in heads.items())


async def _is_there(place: Path) -> bool:
    """Whether somebody listens at that socket."""
    try:
        _, writer = await asyncio.open_unix_connection(place)
    except OSError:
        return False
    writer.close()
    return True


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
