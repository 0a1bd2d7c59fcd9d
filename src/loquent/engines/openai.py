"""Any server that speaks OpenAI's API: its chat and its completions, whole or streamed."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncIterator

from loquent.domain.errors import EngineFailed, LoquentError, Misconfigured, Unavailable
from loquent.domain.models import Model
from loquent.engines import Options
from loquent.engines.openai_wire import Body, Streamed, answer, encode, messages_of, refusal
from loquent.engines.upstream import Server
from loquent.ports.engine import Ask, Chunk

MOST_REFUSAL = 65_536  # bytes of a refusal that are read
WITH_USAGE = {"include_usage": True}


class OpenAI:
    """A remote model, by the row's ``url`` (ending in /v1), ``id`` and ``key_env``.

    Streams pass on as they come: each Chunk has the text and, in ``wire``, the events themselves, under the name that
    callers know the model by, without usage and ``[DONE]``. Redirects are refused, so the key goes nowhere else.
    """

    connect_seconds = 10.0
    first_seconds = 120.0  # of silence before a stream's first event: the prompt is being read
    idle_seconds = 60.0  # of silence after it
    settle_seconds = 1.0  # for the end of the HTTP message behind the end of the answer
    known_seconds = 10.0  # for which an answer says that the engine is there

    def __init__(self, model: Model, options: Options) -> None:
        self._model = model
        self._key = options.keys.get(model.key_env, "") if model.key_env else ""
        # OpenAI's own newer models refuse max_tokens; other servers know nothing else.
        self._is_original = "//api.openai.com/" in (model.url or "")
        self._server: Server | None = None
        self._heard_at = -math.inf

    async def open(self) -> None:
        """See the port. The server itself is not asked for: it may come later."""
        model = self._model
        if not model.url:
            raise Misconfigured(f"model {model.name}: engine openai needs a url, such as https://host/v1")
        if model.key_env and not self._key:
            raise Misconfigured(f"model {model.name}: the environment variable {model.key_env} holds no key")
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "loquent"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._server = Server(
            model.url, name=f"model {model.name}", headers=headers, connect_seconds=self.connect_seconds
        )
        await self._server.open()

    async def close(self) -> None:
        """See the port."""
        if self._server is not None:
            self._server.close()

    async def ready(self) -> None:
        """See the port: where nothing was heard of it for some seconds, its list of models is asked for."""
        now = time.monotonic()
        if now - self._heard_at < self.known_seconds:
            return
        try:
            connection = await self._reach().ask("GET", "/models", b"", seconds=self.connect_seconds)
        except LoquentError as fault:
            raise Unavailable(fault.message) from fault
        try:
            # A server may have no such list (404): it is there all the same.
            if connection.status in (401, 403) or connection.status >= 500:
                body = await connection.body(self.idle_seconds, MOST_REFUSAL)
                refused = refusal(connection.status, connection.headers, body, self._model.name, secret=self._key)
                raise refused if isinstance(refused, Unavailable) else Unavailable(refused.message)
        finally:
            connection.drop()
        self._heard_at = now

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port."""
        if not ask.streamed:
            yield await self._whole(ask)
            return
        name, timeout = self._model.name, self._model.timeout
        path, dialect = ("/chat/completions", "chat") if ask.prompt is None else ("/completions", "completion")
        connection = await self._reach().ask(
            "POST", path, self._body(ask), seconds=timeout, gap=min(self.first_seconds, timeout)
        )
        try:
            kind = connection.headers.get(b"content-type", b"")
            if connection.status != 200:
                body = await connection.body(self.idle_seconds, MOST_REFUSAL)
                raise refusal(connection.status, connection.headers, body, name, secret=self._key)
            if not kind.startswith(b"text/event-stream") or b"content-encoding" in connection.headers:
                raise EngineFailed(
                    f"model {name}: the engine answered {kind.decode('latin-1')[:80]!r} where events were due"
                )
            answered = Streamed(dialect, name)
            gap = self.first_seconds
            while not answered.is_over:
                data = await connection.read(gap)
                gap = self.idle_seconds
                chunk = answered.take(data) if data else answered.end()
                if chunk is not None:
                    yield chunk
            with contextlib.suppress(LoquentError):  # the answer is whole: a late end costs only the connection
                await connection.read(self.settle_seconds)
        finally:
            connection.let_go()
        self._heard_at = time.monotonic()
        if answered.usage is not None:
            yield Chunk(usage=answered.usage)

    async def _whole(self, ask: Ask) -> Chunk:
        name = self._model.name
        path = "/chat/completions" if ask.prompt is None else "/completions"
        connection = await self._reach().ask("POST", path, self._body(ask), seconds=self._model.timeout, whole=True)
        try:
            body = await connection.read(0)
            if connection.status != 200:
                raise refusal(connection.status, connection.headers, body, name, secret=self._key)
            # An encoding was not asked for; it would be a way to send a bomb.
            kind = connection.headers.get(b"content-encoding") or connection.headers.get(b"content-type", b"")
            chunk = answer(body, kind.decode("latin-1")[:80], name)
        finally:
            connection.let_go()
        self._heard_at = time.monotonic()
        return chunk

    def _body(self, ask: Ask) -> bytes:
        wanted, is_original = ask.parameters, self._is_original and ask.prompt is None
        return encode(
            Body(
                model=self._model.id,
                messages=messages_of(ask.messages) if ask.prompt is None else None,
                prompt=ask.prompt,
                max_tokens=None if is_original else wanted.max_tokens,
                max_completion_tokens=wanted.max_tokens if is_original else None,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                seed=wanted.seed,
                stop=wanted.stop,
                response_format=wanted.response_format,
                stream=ask.streamed,
                stream_options=WITH_USAGE if ask.streamed else None,
            )
        )

    def _reach(self) -> Server:
        if self._server is None:
            raise Unavailable(f"model {self._model.name}: the engine is not open")
        return self._server
