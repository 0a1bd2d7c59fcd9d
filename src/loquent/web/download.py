"""Answers that are sent piece by piece as they are made and end when the client goes: long ones, and whole files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from loquent.domain.documents import Document
from loquent.domain.images import Image
from loquent.web.body import HungUp
from loquent.web.errors import Headers
from loquent.web.sse import STALLED, Watch
from loquent.wiring import Services

PIECE = 65_536  # bytes that are gathered before they are sent
LONGEST_NAME = 255  # characters of a file's name
SANDBOX = b"sandbox; default-src 'none'"
SENT_ON: dict[int | str, dict[str, Any]] = {
    307: {"description": "Where LOQUENT_BLOBS_PRESIGN is on: a link to the file, good for some minutes"}
}


class Pieces(Response):
    """``pieces`` as they come. A fault before the first of them is answered like any other; a later one cuts the
    connection, so that half an answer never looks like a whole one."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], *, media_type: str, headers: Headers | None = None) -> None:
        super().__init__(media_type=media_type)
        self._pieces = pieces
        own = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self.raw_headers = [*own, (b"cache-control", b"no-store"), *(headers or [])]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        begun = False
        with suppress(HungUp), Watch(scope, receive):
            async with aclosing(self._pieces) as pieces:
                async for piece in gathered(pieces):
                    if not begun:
                        begun = True
                        await self._begin(send)
                    try:
                        async with asyncio.timeout(STALLED):
                            await send({"type": "http.response.body", "body": piece, "more_body": True})
                    except TimeoutError:
                        raise HungUp from None  # it takes nothing any more: whoever waits for it, waits for ever
            if not begun:
                await self._begin(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


class Download(Pieces):
    """The same as a file that is kept and never opened in a browser, whatever is in it."""

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], *, name: str, media_type: str, headers: Headers | None = None
    ) -> None:
        own = [(b"content-disposition", attachment(name)), (b"content-security-policy", SANDBOX)]
        super().__init__(pieces, media_type=media_type, headers=[*own, *(headers or [])])


async def original(
    ours: Services, record: Document | Image, pieces: AsyncGenerator[bytes, None], *, media_type: str
) -> Response:
    """A file that somebody uploaded: itself, or the way to it where it is so set and the place for files has one."""
    if ours.settings.blobs_presign:
        link = await ours.blobs.link(record.blob, attachment(record.name).decode("ascii"))
        if link is not None:
            return Response(status_code=307, headers={"location": link, "cache-control": "no-store"})
    size = (b"content-length", b"%d" % record.size)
    return Download(pieces, name=record.name, media_type=media_type, headers=[size])


async def gathered(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces."""
    some: list[bytes] = []
    size = 0
    async for piece in pieces:
        some.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(some)
            some, size = [], 0
    if some:
        yield b"".join(some)


def attachment(name: str) -> bytes:
    """Content-Disposition for a file that is to be kept, whatever its sender called it (RFC 6266)."""
    plain = "".join(each if each.isascii() and (each.isalnum() or each in " ._-") else "_" for each in name)[
        :LONGEST_NAME
    ]
    whole = quote(name[:LONGEST_NAME], safe="", errors="replace")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}".encode("ascii")
