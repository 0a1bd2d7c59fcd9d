"""Asks an ASGI application directly: whatever bytes one likes, also those that no honest client would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx2

from built import opened
from loquent.domain import ids
from loquent.domain.clock import now
from loquent.domain.records import RECORDS
from loquent.domain.users import ADMIN, User
from loquent.ports.store import Add
from loquent.web.app import create_app
from loquent.web.edge import Edge
from loquent.wiring import Services

HOST = ("host", "localhost")
JSON = ("content-type", "application/json")
MULTIPART = ("content-type", "multipart/form-data; boundary=edge")
RULES = ("GENERATIONS", "SUMMARIES", "LOGINS", "SESSIONS", "MESSAGES")
UNLIMITED = {f"LOQUENT_LIMIT_{rule}": "1000000/minute" for rule in RULES}
Headers = Sequence[tuple[str, str]]


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    is_whole: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known == name), None)


async def ask(
    app: Any,
    method: str,
    target: str,
    *,
    headers: Headers = (),
    body: bytes | Iterable[bytes] | None = None,
    ends: bool = True,
    leaves: bool = False,
    length: int | None = None,
    host: bool = True,
    address: str = "127.0.0.1",
    seen: Callable[[bytes], bool] | None = None,
) -> Answer:
    """One request. ``body`` in pieces is chunked, unless ``length`` is told; ``ends`` False: its end never comes.

    ``leaves``: the client hangs up when it has sent that; ``seen`` is shown each piece of the answer, and once it
    says True the client hangs up then.
    """
    path, _, query = target.partition("?")
    pieces = [] if body is None else [body] if isinstance(body, bytes) else list(body)
    if length is None and isinstance(body, bytes):
        length = len(body)
    framing = [("content-length", str(length))] if length is not None else [("transfer-encoding", "chunked")]
    sent = [*([HOST] if host else []), *(framing if body is not None or length else []), *headers]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent],
        "client": (address, 40_000),
        "server": ("localhost", 80),
    }
    answer, gone, given = Answer(), asyncio.Event(), 0
    if leaves:
        gone.set()

    async def receive() -> dict[str, Any]:
        nonlocal given
        given += 1
        if given <= len(pieces):
            more = given < len(pieces) or not ends
            return {"type": "http.request", "body": pieces[given - 1], "more_body": more}
        if given == len(pieces) + 1 and ends and not pieces:
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not answer.status, "an answer begins once"
            answer.status = message["status"]
            answer.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            return
        assert answer.status, "an answer begins with its status"
        if piece := message.get("body", b""):
            answer.pieces.append(piece)
            if seen is not None and seen(piece):
                gone.set()
        answer.is_whole = not message.get("more_body", False)

    await app(scope, receive, send)
    return answer


@asynccontextmanager
async def serving(folder: Path, *, works: bool = True, **environ: str) -> AsyncIterator[tuple[Edge, Services]]:
    """The whole application over open services, without limits of rate where none are given."""
    async with opened(folder, works=works, **{**UNLIMITED, **environ}) as services:
        yield create_app(services), services


@asynccontextmanager
async def client_of(app: Edge, token: str | None = None, **more: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A well-behaved client of it."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    transport = httpx2.ASGITransport(app=app, **more)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


def token_of(services: Services, name: str, *, tenant: str = "default") -> str:
    """A good token of a user; the same name in two tenants is two users with one id."""
    user = User(f"usr_{name}", 0, tenant, name, None, "", True, now())
    return services.tokens.issue(user)


async def admin_of(services: Services, name: str = "root") -> str:
    """A good token of an administrator, who is made where there is none of that name."""
    user = User(f"usr_{name}", 0, "default", name, None, "", True, now(), ADMIN)
    if not await services.store.get(User, user.id):
        await services.store.write(Add(user))
    return services.tokens.issue(user)


async def kept(services: Services) -> dict[str, int]:
    """How many records of each kind the store holds."""
    found = {}
    for kind, spec in RECORDS.items():
        order = next(name for name, each in spec.orders.items() if not each.within and name != "due")
        found[spec.table] = await services.store.count(kind, order, {})
    return found


def form(*fields: Mapping[str, str | bytes]) -> bytes:
    """A form in parts, for MULTIPART; what is called ``file`` is one."""
    parts = b""
    for name, value in (pair for each in fields for pair in each.items()):
        ending = "txt" if isinstance(value, str) else "png"
        more = f'; filename="a.{ending}"' if name == "file" else ""
        said = value if isinstance(value, bytes) else value.encode()
        parts += f'--edge\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + said + b"\r\n"
    return parts + b"--edge--\r\n"


def fresh(prefix: str = "gen") -> str:
    """An id that nobody has."""
    return ids.new(prefix)
