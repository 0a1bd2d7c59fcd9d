"""Direct routes: the few hot ones, closer to the metal in the same app, with the same services behind.

A direct route is an ASGI application in the route table, found by its exact path before any router looks; its body
is checked by the same models as everywhere (see ``quick``), and its documentation is made from those too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from loquent.domain.errors import Invalid, Unauthenticated
from loquent.domain.principals import Principal
from loquent.services.wanted import Key
from loquent.web.body import check_is_json, check_size, read_body, read_json, validate
from loquent.web.errors import Headers
from loquent.web.proxies import normal
from loquent.web.quick import usual
from loquent.web.sse import Watch
from loquent.wiring import Services

M = TypeVar("M", bound=BaseModel)
LONGEST_KEY = 255


class Call:
    """One request on a direct route."""

    __slots__ = ("headers", "raw", "receive", "request_id", "scope", "send", "services")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers: Mapping[bytes, bytes] = scope["loquent.headers"]
        self.request_id: str = scope["loquent.request_id"]
        self.services: Services = scope["loquent.services"]
        self.raw = b""

    def who(self) -> Principal:
        """Who asks. Raises Unauthenticated."""
        return self.services.accounts.who(bearer(self.headers.get(b"authorization")), address(self.scope))

    async def body(self, model: type[M]) -> M:
        """The body as the model wants it. Raises Invalid, TooLarge or Unsupported."""
        check_is_json(self.headers.get(b"content-type"))
        self.raw = await read_body(self.receive)
        if self.is_large:
            check_size(self.raw, self.services.settings.max_body)
            return await asyncio.to_thread(lambda: validate(model, read_json(self.raw)))
        return usual(model, self.raw) or validate(model, read_json(self.raw))

    @property
    def is_large(self) -> bool:
        """Whether its body has pictures: then it is taken apart in a thread, or everybody would wait for that."""
        return len(self.raw) > self.services.settings.max_body

    def key(self) -> Key | None:
        """The Idempotency-Key, where one came."""
        return idempotency_key(self.headers.get(b"idempotency-key"), self.scope, self.raw)

    def watch(self) -> Watch:
        """While open, a caller that hangs up ends the work; see Watch."""
        return Watch(self.scope, self.receive, wheel=self.scope["loquent.wheel"])

    async def reply(self, body: bytes, *, status: int = 200, headers: Headers | None = None) -> None:
        """Send a whole answer in JSON."""
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(headers or [])]
        await self.send({"type": "http.response.start", "status": status, "headers": head})
        await self.send({"type": "http.response.body", "body": body})


Handler = Callable[[Call], Awaitable[None]]


@dataclass(frozen=True)
class Direct:
    """A direct route: POST of one JSON body."""

    path: str
    handler: Handler
    body: type[BaseModel]
    summary: str
    tags: tuple[str, ...]
    answers: Mapping[str, str]  # status -> what it means, for the documentation
    takes_pictures: bool = False  # within its body, which may be as large as an upload then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI wants it."""
        await self.handler(Call(scope, receive, send))

    def route(self) -> Route:
        """Its place in the route table."""
        return Route(self.path, endpoint=self, methods=["POST"], name=self.handler.__name__, include_in_schema=False)


def bearer(authorization: bytes | str | None) -> str | None:
    """The token of an Authorization header; None where there is none. Another scheme is a token that never fits."""
    if authorization is None:
        return None
    text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
    scheme, _, token = text.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class NoToken(Unauthenticated):
    """No token at all came, where nobody is served without one."""


def by_token(services: Services, authorization: bytes | str | None) -> Principal:
    """Who asks, on surfaces that know no anonymous callers. Raises NoToken or Unauthenticated."""
    token = bearer(authorization)
    if not token:
        raise NoToken("log in first: this needs an access token")
    return services.accounts.who(token, "")


def any_key(services: Services, authorization: bytes | str | None, address: str) -> Principal:
    """Who asks, of clients that insist on some key: one that is no token is none where anonymous callers are served."""
    token = bearer(authorization)
    is_token = token is not None and token.count(".") == 2
    return services.accounts.who(token if is_token or not services.settings.takes_anonymous else None, address)


def address(scope: Scope) -> str:
    """The address that the request came from: the one that owners and limits go by (see Edge and Proxies)."""
    client = scope.get("client")
    return normal(client[0]) if client else ""


def idempotency_key(header: bytes | str | None, scope: Scope, body: bytes) -> Key | None:
    """The key with its route and body. Raises Invalid where it cannot be one."""
    if header is None:
        return None
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    if not 1 <= len(text) <= LONGEST_KEY or not text.isprintable():
        raise Invalid(f"an Idempotency-Key has 1 to {LONGEST_KEY} printable characters", field="Idempotency-Key")
    return Key(f"{scope['method']} {scope['path'].rstrip('/')}", text, body)
