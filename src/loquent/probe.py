"""The probe: what a process that serves nothing tells monitors of itself, over a little HTTP.

``/metrics``, ``/api/v1/health/live`` and ``/api/v1/health/ready``, as the server has them; one request a connection,
and all of it bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from loquent.domain.errors import Misconfigured
from loquent.domain.log import Log
from loquent.services.metrics import CONTENT_TYPE
from loquent.wiring import Services

log = Log("loquent.probe")
SECONDS = 10.0  # for a request and its answer
MOST_HEAD = 16_384  # bytes of a request
MOST = 32  # requests at a time; further ones are hung up on
Answer = tuple[int, str, bytes]
PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@contextlib.asynccontextmanager
async def probed(services: Services) -> AsyncIterator[Probe]:
    """Answer at LOQUENT_HOST and LOQUENT_WORKER_PORT meanwhile, where that is set. Raises Misconfigured."""
    probe = Probe(services)
    host, port = services.settings.host.strip("[]"), services.settings.worker_port
    if not port:
        yield probe
        return
    try:
        server = await asyncio.start_server(probe.answer, host, port, limit=MOST_HEAD)
    except OSError as error:
        why = error.strerror or str(error)
        see = "LOQUENT_WORKER_PORT, and LOQUENT_HOST, which goes before HOST: other programs set that, too"
        said = f"cannot listen on {host} port {port}: {why}; see {see}"
        raise Misconfigured(said, field="LOQUENT_WORKER_PORT") from None
    log.info("probed", host=host, port=port)
    try:
        yield probe
    finally:
        server.close()
        await probe.close()


class Probe:
    """Answers one request a connection. Until ``is_open`` is set, as soon as the services are, only that it lives."""

    def __init__(self, services: Services) -> None:
        self.is_open = False
        self._services = services
        self._under_way: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Hang up on whoever is still here."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request, write its answer, hang up."""
        if len(self._under_way) >= MOST:
            writer.close()
            return
        task = asyncio.create_task(self._answered(reader, writer))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = await self._said(head)
                if writer.is_closing():
                    return  # gone meanwhile; uvloop takes nothing for a connection that is closed
                writer.write(
                    f"HTTP/1.1 {status} {PHRASES[status]}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                writer.write(b"" if head.startswith(b"HEAD ") else body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # whoever asked is slow, gone or no monitor
        except Exception:
            log.exception("unexpected fault")
        finally:
            writer.close()

    async def _said(self, head: bytes) -> Answer:
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _json(400, "this is no HTTP")
        if words[0] not in (b"GET", b"HEAD"):
            return _json(405, "only GET and HEAD")
        match words[1].partition(b"?")[0].rstrip(b"/"):
            case b"/api/v1/health" | b"/api/v1/health/live":
                return _json(200, "healthy")
            case _ if not self.is_open:
                return _json(503, "starting")
            case b"/metrics" if self._services.settings.metrics:
                return 200, CONTENT_TYPE, await self._services.watch.page()
            case b"/api/v1/health/ready":
                is_ready = await self._services.health.ready()
                return _json(200, "healthy") if is_ready else _json(503, "degraded")
            case _:
                return _json(404, "there is no such page")


def _json(status: int, word: str) -> Answer:
    return status, "application/json", msgspec.json.encode({"status": word})
