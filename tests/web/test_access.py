"""Nobody sees another's data: by id, by reference, in a list, while it runs; in no route that there is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asking import JSON, Answer, Headers, admin_of, ask, kept, serving, token_of
from loquent.domain.evolve import evolve
from loquent.domain.ids import as_uuid
from loquent.web.edge import Edge
from loquent.wiring import Services
from making import document, feedback, image, response, session
from surfaces import ACCESS, ADMIN, OWNER, SAMPLES, sample

pytestmark = pytest.mark.anyio

OWNED = sorted(key for key, row in ACCESS.items() if row == OWNER)
ADMINS = sorted(key for key, row in ACCESS.items() if row == ADMIN)
STRANGERS = ("bob", "ann elsewhere", "anonymous", "anonymous elsewhere")


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[tuple[Edge, Services]]:
    async with serving(tmp_path) as found:
        yield found


def as_(services: Services, name: str) -> dict[str, Any]:
    """How somebody asks."""
    if name.startswith("anonymous"):
        return {"headers": [], "address": "10.0.0.9" if "elsewhere" in name else "127.0.0.1"}
    token = token_of(services, name.split()[0], tenant="other" if "elsewhere" in name else "default")
    return {"headers": [("authorization", f"Bearer {token}")]}


async def post(app: Edge, path: str, body: dict[str, Any], who: dict[str, Any], *more: tuple[str, str]) -> Answer:
    headers: Headers = [JSON, *who["headers"], *more]
    return await ask(app, "POST", path, body=json.dumps(body).encode(), **{**who, "headers": headers})


async def use(app: Edge, method: str, path: str, id: str, who: dict[str, Any]) -> Answer:
    """That route for that id, with a good body where it takes one."""
    target, body = path.replace("{id}", id), sample(method, path.replace("org/parrot", "{name:path}"))
    if body is None:
        return await ask(app, method, target, **who)
    return await ask(app, method, target, body=json.dumps(body).encode(), **{**who, "headers": [JSON, *who["headers"]]})


async def made(app: Edge, services: Services, path: str, who: str) -> str:
    """The id, for that route, of something over that is theirs."""
    if "sessions" in path:
        return await session(app, as_(services, who))
    if "documents" in path:
        return await document(app, as_(services, who))
    if "feedback" in path:
        return await feedback(app, as_(services, who))
    if "images" in path:
        return await image(app, as_(services, who))
    if "responses" in path:
        return await response(app, as_(services, who))
    if "summaries" in path:
        answer = await post(app, "/api/v1/summaries", SAMPLES["/api/v1/summaries"], as_(services, who))
        return str(answer.json()["id"])
    answer = await post(app, "/api/v1/generations", {"prompt": "a secret"}, as_(services, who))
    return str(answer.json()["id"])


def said(answer: Answer, id: str, other: str) -> dict[str, Any]:
    """What the answer says of that id, as if it had been another's."""
    told: dict[str, Any] = json.loads(answer.body.decode().replace(id, other))
    return told | {"request_id": ""}


@pytest.mark.parametrize("owner", ["ann", "anonymous"])
@pytest.mark.parametrize(("method", "path"), OWNED, ids=[f"{method} {path}" for method, path in OWNED])
async def test_anothers_is_not_found_and_stays_as_it_is(
    at: tuple[Edge, Services], method: str, path: str, owner: str
) -> None:
    app, services = at
    id = await made(app, services, path, owner)
    nobodys = id[:-6] + "000000"
    unknown = await use(app, method, path, nobodys, as_(services, owner))
    for stranger in STRANGERS:
        if stranger == owner:
            continue
        answer = await use(app, method, path, id, as_(services, stranger))
        assert answer.status == 404, stranger
        assert said(answer, id, nobodys) == said(unknown, nobodys, nobodys), "not even that it is there"
    own = await use(app, method, path, id, as_(services, owner))
    assert own.status in (200, 204)


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_one_that_runs_is_anothers_too(at: tuple[Edge, Services], stranger: str) -> None:
    app, services = at
    body = {"prompt": "[slow 0.01] [words 3000] secret", "background": True}
    id = (await post(app, "/api/v1/generations", body, as_(services, "ann"))).json()["id"]
    async with asyncio.timeout(10):
        while id not in services.runner.lives:
            await asyncio.sleep(0.01)
    for method, path in OWNED:
        if path.startswith("/api/v1/generations"):
            answer = await ask(app, method, path.replace("{id}", id), **as_(services, stranger))
            assert (answer.status, b"secret" in answer.body) == (404, False), path
    own = await ask(app, "POST", f"/api/v1/generations/{id}/cancel", **as_(services, "ann"))
    assert (own.status, own.json()["status"]) == (200, "cancelled"), "it ran until its owner ended it"


@pytest.mark.parametrize(("method", "path"), ADMINS, ids=[f"{method} {path}" for method, path in ADMINS])
async def test_only_administrators_come_in_and_only_for_as_long_as_they_are(
    at: tuple[Edge, Services], method: str, path: str
) -> None:
    app, services = at
    root = {"headers": [("authorization", f"Bearer {await admin_of(services)}")]}
    user = await services.accounts.register("eve", "a long enough one")
    before = {"headers": [("authorization", f"Bearer {services.tokens.issue(user)}")]}
    promoted = await services.accounts.set_role("eve", "admin")
    eve = {"headers": [("authorization", f"Bearer {services.tokens.issue(promoted)}")]}
    target = path.replace("{name:path}", "org/parrot")
    if target != path:
        await services.registry.add(services.accounts.who(await admin_of(services), ""), SAMPLES["/api/v1/models"])
    elsewhere = services.tokens.issue(evolve(promoted, tenant="other"))
    known = await kept(services)
    for who, status in (
        (as_(services, "anonymous"), 401),
        ({"headers": [("authorization", "Bearer nonsense")]}, 401),
        (as_(services, "ann"), 403),
        (before, 403),
        ({"headers": [("authorization", f"Bearer {elsewhere}")]}, 403),
    ):
        assert (await use(app, method, target, "", who)).status == status
    await services.accounts.set_role("eve", "user")
    assert (await use(app, method, target, "", eve)).status == 403, "a role that was taken away"
    await services.accounts.set_role("eve", "admin")
    await services.accounts.set_active("eve", is_active=False)
    assert (await use(app, method, target, "", eve)).status in (401, 403), "an account that is disabled"
    await services.revocations.look()
    assert (await use(app, method, target, "", eve)).status == 401, "now this process has heard of it"
    assert await kept(services) == known
    assert (await use(app, method, target, "", root)).status in (200, 201, 204)


async def test_lists_show_ones_own_only(at: tuple[Edge, Services]) -> None:
    app, services = at
    people = ("ann", *STRANGERS)
    ids: dict[str, list[str]] = {}
    for who in people:
        ids[who] = [await made(app, services, path, who) for path in ("/api/v1/generations", "/api/v1/summaries")]
    for who in people:
        listed = (await ask(app, "GET", "/api/v1/generations", **as_(services, who))).json()["data"]
        assert [each["id"] for each in listed if each["kind"] == "text"] == ids[who][:1]
        assert [as_uuid(each["id"]) for each in listed if each["kind"] == "summary"] == ids[who][1:]
        summaries = (await ask(app, "GET", "/api/v1/summaries", **as_(services, who))).json()
        assert ([each["id"] for each in summaries["summaries"]], summaries["total"]) == (ids[who][1:], 1)
        for other in people:
            after = await ask(app, "GET", f"/api/v1/generations?after={ids[other][0]}", **as_(services, who))
            assert {each["id"] for each in after.json()["data"]} <= {each["id"] for each in listed}


@pytest.mark.parametrize("path", ["/api/v1/generations", "/api/v1/summaries", "/v1/chat/completions", "/v1/responses"])
async def test_anothers_idempotency_key_is_just_a_key(at: tuple[Edge, Services], path: str) -> None:
    app, services = at
    key = ("idempotency-key", "the same")
    ids = set()
    for who in ("ann", *STRANGERS):
        answer = await post(app, path, SAMPLES[path], as_(services, who), key)
        assert answer.header("idempotent-replayed") is None, who
        assert answer.status in (200, 201)
        ids.add(answer.json()["id"])
    assert len(ids) == 1 + len(STRANGERS)


async def test_ones_own_account_is_the_only_one_to_be_seen(at: tuple[Edge, Services]) -> None:
    app, services = at
    user = await services.accounts.register("carol", "a long enough one", "carol@example.org")
    mine = await ask(
        app, "GET", "/api/v1/users/me", headers=[("authorization", f"Bearer {services.tokens.issue(user)}")]
    )
    assert mine.json()["email"] == "carol@example.org"
    for who in STRANGERS:
        answer = await ask(app, "GET", "/api/v1/users/me", **as_(services, who))
        assert b"carol" not in answer.body


async def test_what_others_do_does_not_show_in_the_rate(tmp_path: Path) -> None:
    limit = {"LOQUENT_LIMIT_GENERATIONS": "2/minute"}
    async with serving(tmp_path, **limit) as (app, services):
        for who in ("ann", *STRANGERS):
            left = []
            for _ in range(3):
                answer = await post(app, "/api/v1/generations", {"prompt": "x"}, as_(services, who))
                left.append((answer.status, answer.header("x-ratelimit-remaining-requests")))
            assert left == [(200, "1"), (200, "0"), (429, "0")], who
        assert (await kept(services))["generations"] == 2 * (1 + len(STRANGERS))


async def test_metrics_say_nothing_of_anybody(at: tuple[Edge, Services]) -> None:
    app, services = at
    id = await made(app, services, "/api/v1/generations", "ann")
    page = (await ask(app, "GET", "/metrics")).body.decode()
    assert not [word for word in ("usr_ann", "secret", id, "default/") if word in page]
