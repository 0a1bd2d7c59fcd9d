"""Somebody else's HTTP server, spoken to over kept connections: a request, and its answer as the bytes come.

Only what an engine needs of HTTP/1.1, because this is the hottest path of the product: one server, no redirects,
cookies, proxies or compression. The parser is llhttp; the rest is here so that a call makes no task and no timer.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from loquent.domain.errors import EngineFailed, EngineTimeout, LoquentError, Misconfigured, Unavailable

KEEP_SECONDS = 55.0  # a connection that nobody needed for so long is closed: most servers do so after 60
STALE_SECONDS = 1.0  # in which a request to a connection that was closed meanwhile comes back
MOST_KEPT = 256
MOST_HEAD = 65_536  # bytes of status and headers
MOST_ANSWER = 32 * 1024 * 1024  # bytes of an answer that is read as a whole
ENOUGH = 262_144  # bytes waiting to be read, at which the server is made to wait


class Connection(asyncio.Protocol):
    """One connection, and the one answer that it is busy with.

    Deadlines cost nothing per call: one timer lives with the connection and, when it rings, looks whether it is late.
    """

    status: int
    headers: dict[bytes, bytes]

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._parser = HttpResponseParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._lost = False
        self._paused = False
        self._asked_at = 0.0
        self.kept_at = 0.0  # since when it was last free; 0: never
        self._clear(whole=False, until=math.inf)
        self._done = True

    def _clear(self, *, whole: bool, until: float) -> None:
        self._whole = whole  # nobody looks before the end: one wake-up will do
        self._until = until
        self._quiet_until = math.inf
        self._waiter: asyncio.Future[None] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._headed = self._done = self._keeps = False
        self._fault: LoquentError | None = None
        self.status = 0
        self.headers = {}

    # What the engine does with it.

    async def ask(self, request: bytes, *, whole: bool, until: float, gap: float) -> None:
        """Send it, and wait for the answer's head or, ``whole``, for its end. Raises Unavailable, EngineTimeout."""
        self._clear(whole=whole, until=until)
        self._asked_at = self._loop.time()
        self._transport.write(request)
        while not (self._done if whole else self._headed):
            if self._fault is not None:
                raise self._fault
            await self._wake(gap)

    async def read(self, gap: float) -> bytes:
        """What has come, as soon as something has; empty at the end. ``gap``: seconds that may pass in silence."""
        while not self._parts:
            if self._fault is not None:
                raise self._fault
            if self._done:
                return b""
            await self._wake(gap)
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def body(self, gap: float, most: int) -> bytes:
        """What is left of the answer, cut after ``most`` bytes."""
        whole = b""
        while len(whole) < most and (data := await self.read(gap)):
            whole += data
        return whole[:most]

    def let_go(self) -> None:
        """Free for the next call where the answer is at its end; closed at once where it is not."""
        if self._done and self._keeps and not self._lost and self._fault is None:
            self._server.keep(self)
        else:
            self.drop()

    def drop(self) -> None:
        """Close it at once; who reads from it is told that it is gone."""
        self._fail(Unavailable(f"{self._server.name}: the engine's connection was closed"))

    @property
    def is_open(self) -> bool:
        """Whether it may be asked something."""
        return not self._lost and self._fault is None

    @property
    def went_stale(self) -> bool:
        """Whether the server closed it as a kept one, while the request was on its way: it may be asked again."""
        is_prompt = self._loop.time() - self._asked_at < STALE_SECONDS
        return self._lost and self._head_size == 0 and self.kept_at > 0 and is_prompt

    # Waiting, and being late.

    async def _wake(self, gap: float) -> None:
        self._quiet_until = self._loop.time() + gap
        self._arm()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._quiet_until = math.inf  # whoever is slow now, it is not the server

    def _arm(self) -> None:
        due = min(self._until, self._quiet_until)
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer, self._timer_at = (self._loop.call_at(due, self._look) if due < math.inf else None), due

    def _look(self) -> None:
        self._timer = None
        if self._done or self._fault is not None:
            return
        if min(self._until, self._quiet_until) <= self._loop.time():
            self._fail(EngineTimeout(f"{self._server.name}: the engine did not answer in time"))
        else:
            self._arm()

    def _fail(self, fault: LoquentError) -> None:
        if self._fault is None:
            self._fault = fault
        if not self._done:
            self._server.heard_at = -math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()
        self._tell()

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            return
        if not self._headed:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._fail(EngineFailed(f"{self._server.name}: the engine does not speak HTTP"))
            return
        if self._fault is not None:
            self._fail(self._fault)
        elif not self._headed and self._head_size > MOST_HEAD:
            self._fail(EngineFailed(f"{self._server.name}: the engine's headers have no end"))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._done:
            return
        is_framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        if self._headed and not is_framed and error is None:
            self._done = True  # RFC 9112, section 6.3: such an answer ends with its connection
            self._tell()
        else:
            where = "in mid-answer" if self._headed else "before it answered"
            self._fail(Unavailable(f"{self._server.name}: the engine hung up {where}"))

    # What the parser says; an exception may not leave these, so a fault is kept for data_received.

    def on_message_begin(self) -> None:
        if self._done:
            self._fault = EngineFailed(f"{self._server.name}: the engine answered more than was asked")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._headed = True
            if not self._whole:
                self._tell()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if not self._whole:
            if self._size > ENOUGH and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            self._tell()
        elif self._size > MOST_ANSWER:
            self._fault = EngineFailed(f"{self._server.name}: the engine's answer has no end")

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 and 103 come before the answer
            self.headers = {}
            return
        self._done = True
        self._server.heard_at = self._loop.time() if self.status < 400 else -math.inf
        self._keeps = self._parser.should_keep_alive()
        self._tell()


class Server:
    """One server, by its base URL, and the connections to it. ``name`` is what messages call it by."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        headers: dict[str, str],
        connect_seconds: float,
        more: Callable[[], str] | None = None,
    ) -> None:
        """``more``: gives further lines of the head, anew for each request.

        Raises Misconfigured, without the headers' values, where the URL or a header cannot be used.
        """
        self.name = name
        self._more = more
        self.connect_seconds = connect_seconds
        self.connections: set[Connection] = set()
        self.heard_at = -math.inf  # when a call was last answered, by the loop's clock; one that fails takes it back
        self._kept: deque[Connection] = deque()
        self._tls: ssl.SSLContext | None = None
        self._is_open = False
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        is_plain = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme not in ("http", "https") or not host or parts.username is not None or not is_plain:
            said = f"{name}: url takes http://host:port/v1 or https://host/v1, without a user or password"
            raise Misconfigured(said, field="url")
        for header, value in headers.items():
            if not value.isascii() or not value.isprintable() or not value.strip():
                raise Misconfigured(f"{name}: the value for {header} is empty or has characters that a header cannot")
        self._is_https = parts.scheme == "https"
        self._host, self._port = host, port or (443 if self._is_https else 80)
        self._path = parts.path.rstrip("/")
        self._head = "".join(f"{header}: {value}\r\n" for header, value in {"Host": parts.netloc, **headers}.items())

    async def open(self) -> None:
        """Get ready to connect, from this loop."""
        self._loop = asyncio.get_running_loop()  # asked for once: each time costs a call of the system
        if self._is_https and self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)  # reads the authorities from disk
            self._tls.set_alpn_protocols(["http/1.1"])
        self._is_open = True

    def close(self) -> None:
        """Close every connection, busy or not."""
        self._is_open = False
        self._kept.clear()
        for connection in tuple(self.connections):
            connection.drop()

    def figures(self) -> Mapping[str, float]:
        """See Watched."""
        return {"busy": len(self.connections) - len(self._kept), "idle": len(self._kept)}

    async def ask(
        self, method: str, path: str, body: bytes, *, seconds: float, gap: float = math.inf, whole: bool = False
    ) -> Connection:
        """The connection on which the answer has begun or, ``whole``, ended; let go of it whatever happens.

        ``seconds`` bound the whole answer, ``gap`` the silence before its head. Raises Unavailable, EngineTimeout.
        """
        until = self._loop.time() + seconds
        head = self._head if self._more is None else self._head + self._more()
        request = f"{method} {self._path}{path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
        while True:
            connection = self._pick() or await self._connect()
            try:
                await connection.ask(request + body, whole=whole, until=until, gap=gap)
            except BaseException as fault:
                connection.drop()
                if isinstance(fault, Unavailable) and connection.went_stale:
                    continue  # each kept one can be stale once, and then a new one is made: this ends
                raise
            return connection

    def keep(self, connection: Connection) -> None:
        """Take one back that is free again."""
        now = self._loop.time()
        connection.kept_at = now
        self._kept.append(connection)
        if len(self._kept) > MOST_KEPT or self._kept[0].kept_at < now - KEEP_SECONDS:
            self._kept.popleft().drop()

    def _pick(self) -> Connection | None:
        """The one that was used last: so the others grow old and are closed."""
        oldest = self._loop.time() - KEEP_SECONDS
        while self._kept:
            connection = self._kept.pop()
            if connection.is_open and connection.kept_at >= oldest:
                return connection
            connection.drop()
        return None

    async def _connect(self) -> Connection:
        if not self._is_open:
            raise Unavailable(f"{self.name}: the engine is closed")
        loop = self._loop
        try:
            async with asyncio.timeout(self.connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop), self._host, self._port, ssl=self._tls
                )
        except (OSError, UnicodeError) as error:  # refused, no such name, no TLS, too slow
            self.heard_at = -math.inf
            raise Unavailable(f"{self.name}: the engine cannot be reached") from error
        return connection
