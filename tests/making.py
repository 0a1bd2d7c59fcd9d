"""What a good request needs before it can be made: something of the caller's own that its path or its body names.

A sample names it by an id that is well formed and nobody's; here it becomes the id of what is made for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from asking import JSON, Headers, ask
from samples import pictures

NOBODYS = "0" * 32
GENERATION, SESSION, HELD = f"gen_{NOBODYS}", f"ses_{NOBODYS}", str(UUID(int=0))
"""A generation, a session, and a session that is known by its id alone, as samples name them."""


async def filled(app: Any, path: str, sample: Mapping[str, Any], who: Mapping[str, Any]) -> tuple[str, bytes]:
    """The path and the body of a good request; ``who`` is how somebody asks: headers, and perhaps an address."""
    body = json.dumps(sample)
    if GENERATION in body:
        body = body.replace(GENERATION, await made(app, "/api/v1/generations", {"prompt": "one"}, who))
    if SESSION in body:
        body = body.replace(SESSION, await session(app, who))
    if HELD in body:
        body = body.replace(HELD, await made(app, "/session/initialize_session", {}, who, name="session_id"))
    if path.startswith("/api/v1/sessions/{id}"):
        path = path.replace("{id}", await session(app, who))
    if path.startswith("/api/v1/documents/{id}"):
        path = path.replace("{id}", await document(app, who))
    if path == "/auth/login":
        await made(app, "/api/v1/users", sample, who)
    if path.startswith("/api/v1/images/{id}"):
        path = path.replace("{id}", await image(app, who))
    return path, body.encode()


async def session(app: Any, who: Mapping[str, Any]) -> str:
    """The id of a session in which something has been said."""
    id = await made(app, "/api/v1/sessions", {}, who)
    await made(app, f"/api/v1/sessions/{id}/turns", {"message": "a secret"}, who)
    return id


async def response(app: Any, who: Mapping[str, Any]) -> str:
    """The id of a response that was made in the background, and is over."""
    id = await made(app, "/v1/responses", {"model": "echo", "input": "a secret", "background": True}, who)
    async with asyncio.timeout(10):
        while b'"status":"completed"' not in (await ask(app, "GET", f"/v1/responses/{id}", **who)).body:
            await asyncio.sleep(0.01)
    return id


async def document(app: Any, who: Mapping[str, Any]) -> str:
    """The id of an uploaded text."""
    return await uploaded(app, "/api/v1/documents", "a.txt", b"a secret", who)


async def image(app: Any, who: Mapping[str, Any]) -> str:
    """The id of an uploaded picture."""
    return await uploaded(app, "/api/v1/images", "a.png", pictures.plain("PNG"), who)


async def feedback(app: Any, who: Mapping[str, Any]) -> str:
    """The id of what was said of an answer."""
    generation = await made(app, "/api/v1/generations", {"prompt": "one"}, who)
    return await made(app, "/api/v1/feedback", {"generation_id": generation, "comment": "a secret"}, who)


async def uploaded(app: Any, path: str, name: str, content: bytes, who: Mapping[str, Any]) -> str:
    """The id of a file of that name and content."""
    part = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    part += content + b"\r\n--edge--\r\n"
    headers: Headers = [("content-type", "multipart/form-data; boundary=edge"), *who.get("headers", ())]
    answer = await ask(app, "POST", path, body=part, **{**who, "headers": headers})
    assert answer.status == 201, answer.body
    return str(answer.json()["id"])


async def made(app: Any, path: str, body: Mapping[str, Any], who: Mapping[str, Any], *, name: str = "id") -> str:
    """What the answer to that body calls what was made."""
    headers: Headers = [JSON, *who.get("headers", ())]
    answer = await ask(app, "POST", path, body=json.dumps(body).encode(), **{**who, "headers": headers})
    assert answer.status in (200, 201), answer.body
    return str(answer.json()[name])
