"""A model behind somebody's HTTP API: the call, whole or streamed, with its deadlines; a wire says the rest."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping

from loquent.domain.errors import EngineFailed, Invalid, LoquentError, Misconfigured, Unavailable
from loquent.domain.models import Model
from loquent.engines import Options
from loquent.engines.events import Events
from loquent.engines.upstream import Connection, Server
from loquent.ports.engine import Ask, Chunk
from loquent.ports.tracer import told

MOST_REFUSAL = 65_536  # bytes of a refusal that are read


class Remote(ABC):
    """What engines that call a server have in common. Redirects are refused, so the key goes nowhere else."""

    settle_seconds = 1.0  # for the end of the HTTP message behind the end of the answer
    known_seconds = 10.0  # for which an answer says that the engine is there

    def __init__(self, model: Model, options: Options) -> None:
        self._model = model
        self._key = options.key_of(model)
        self._more = told if options.tells(model) else None
        self._server: Server | None = None

    # What the wire says.

    listing: str  # the path of the list of models

    @abstractmethod
    def _place(self) -> tuple[str, Mapping[str, str]]:
        """The base URL, and the headers of the wire's own. Raises Misconfigured."""

    @abstractmethod
    def _path(self, ask: Ask) -> str:
        """Where this is asked."""

    @abstractmethod
    def _body(self, ask: Ask) -> bytes:
        """What is asked, as JSON. Raises Invalid."""

    @abstractmethod
    def _events(self, ask: Ask) -> Events:
        """What reads the streamed answer."""

    @abstractmethod
    def _answer(self, body: bytes, content_type: str) -> Chunk:
        """The whole answer. Raises EngineFailed where it is none."""

    @abstractmethod
    def _refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> LoquentError:
        """What an answer of another status than 200 means."""

    # What an engine does, by the port.

    async def open(self) -> None:
        """See the port. The server itself is not asked for: it may come later."""
        model = self._model
        url, own = self._place()
        if model.key_env and not self._key:
            said = f"model {model.name}: the environment variable {model.key_env} holds no key"
            raise Misconfigured(said, field="key_env")
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "loquent", **own}
        self._server = Server(
            url,
            name=f"model {model.name}",
            headers=headers,
            connect_seconds=model.timeouts.connect,
            more=self._more,
        )
        await self._server.open()

    async def close(self) -> None:
        """See the port."""
        if self._server is not None:
            self._server.close()

    async def ready(self) -> None:
        """See the port: where nothing was heard of it for some seconds, its list of models is asked for."""
        server, now = self._reach(), asyncio.get_running_loop().time()
        if now - server.heard_at < self.known_seconds:
            return
        try:
            connection = await server.ask("GET", self.listing, b"", seconds=self._model.timeouts.connect)
        except LoquentError as fault:
            raise Unavailable(fault.message) from fault
        try:
            # A server may have no such list (404): it is there all the same.
            if connection.status in (401, 403) or connection.status >= 500:
                body = await connection.body(self._model.timeouts.idle, MOST_REFUSAL)
                refused = self._refused(connection, body)
                raise refused if isinstance(refused, Unavailable) else Unavailable(refused.message)
        finally:
            connection.drop()
        server.heard_at = now

    def figures(self) -> Mapping[str, float]:
        """See Watched: connections to the server, busy and idle."""
        return {} if self._server is None else self._server.figures()

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port."""
        if not ask.streamed or ask.texts:
            yield await self._whole(ask)
            return
        name, timeouts = self._model.name, ask.model.timeouts
        connection = await self._reach().ask(
            "POST",
            self._path(ask),
            self._encoded(ask),
            seconds=timeouts.total,
            gap=min(timeouts.first, timeouts.total),
        )
        try:
            kind = connection.headers.get(b"content-type", b"")
            if connection.status != 200:
                body = await connection.body(timeouts.idle, MOST_REFUSAL)
                raise self._refused(connection, body)
            if not kind.startswith(b"text/event-stream") or b"content-encoding" in connection.headers:
                raise EngineFailed(f"model {name}: the engine answered {self._told(kind)!r} where events were due")
            answered = self._events(ask)
            gap = timeouts.first
            while not answered.is_over:
                data = await connection.read(gap)
                gap = timeouts.idle
                chunk = answered.take(data) if data else answered.end()
                if chunk is not None:
                    yield chunk
            with contextlib.suppress(LoquentError):  # the answer is whole: a late end costs only the connection
                await connection.read(self.settle_seconds)
        finally:
            connection.let_go()
        if answered.usage is not None:
            yield Chunk(usage=answered.usage)

    async def _whole(self, ask: Ask) -> Chunk:
        return self._answer(*await self._posted(ask))

    async def _posted(self, ask: Ask) -> tuple[bytes, str]:
        """Ask, and have the whole answer: its body, and of what type it is."""
        connection = await self._reach().ask(
            "POST", self._path(ask), self._encoded(ask), seconds=ask.model.timeouts.total, whole=True
        )
        try:
            body = await connection.read(0)
            if connection.status != 200:
                raise self._refused(connection, body)
            # An encoding was not asked for; it would be a way to send a bomb.
            kind = connection.headers.get(b"content-encoding") or connection.headers.get(b"content-type", b"")
        finally:
            connection.let_go()
        return body, self._told(kind)

    def _told(self, header: bytes) -> str:
        """What a header of the answer says, as a message may hold it: without the key, wherever that comes from."""
        said = header.decode("latin-1")
        return (said.replace(self._key, "…") if self._key else said)[:80]

    def _refused(self, connection: Connection, body: bytes) -> LoquentError:
        refused = self._refusal(connection.status, connection.headers, body)
        refused.engine_status = connection.status
        return refused

    def _encoded(self, ask: Ask) -> bytes:
        try:
            return self._body(ask)
        except UnicodeEncodeError as lone:
            raise Invalid("the text holds half a character (a lone surrogate)") from lone

    def _reach(self) -> Server:
        if self._server is None:
            raise Unavailable(f"model {self._model.name}: the engine is not open")
        return self._server
