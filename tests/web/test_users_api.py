"""Accounts over HTTP: register, log in, who am I; and how often one may try."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import time_machine

from asking import client_of, kept, serving
from loquent.domain.users import User
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

PAST = "2026-01-31T12:00Z"
CAROL = {"username": "carol", "password": "a long enough one", "email": "carol@example.org"}
FORM = {"username": "carol", "password": "a long enough one"}
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path, works=False) as (app, services), client_of(app) as client:
        yield client, services


async def test_register_log_in_and_who_am_i(at: Ours) -> None:
    client, _ = at
    answer = await client.post("/api/v1/users", json=CAROL)
    user = answer.json()
    assert answer.status_code == 201
    assert set(user) == {"id", "object", "username", "email", "anonymous", "created_at"}
    assert (user["object"], user["username"], user["email"]) == ("user", "carol", "carol@example.org")
    answer = await client.post("/api/v1/token", data={**FORM, "grant_type": "password", "scope": ""})
    said = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert set(said) == {"access_token", "token_type", "expires_in"}
    assert (said["token_type"], said["expires_in"]) == ("bearer", 3600)
    me = await client.get("/api/v1/users/me", headers={"authorization": f"bearer {said['access_token']}"})
    assert (me.status_code, me.json()) == (200, user)


@pytest.mark.parametrize("path", ["/api/v1/users", "/users", "/auth/register"])
async def test_where_registration_is_off_only_the_operator_makes_accounts(tmp_path: Path, path: str) -> None:
    on, off = tmp_path / "on", tmp_path / "off"
    on.mkdir(), off.mkdir()
    mine = {name: value for name, value in CAROL.items() if name != "email" or path != "/users"}
    async with serving(on, works=False) as (app, _), client_of(app) as client:
        assert (await client.post(path, json=mine)).status_code in (200, 201)
        assert 'value="register"' in (await client.get("/", headers={"accept": "text/html"})).text
    async with serving(off, works=False, LOQUENT_REGISTRATION="off") as (app, services), client_of(app) as client:
        assert (await client.post(path, json=mine)).status_code == 403
        assert (await kept(services))["users"] == 0
        assert 'value="register"' not in (await client.get("/", headers={"accept": "text/html"})).text
        await services.accounts.register("carol", CAROL["password"])
        assert (await client.post("/api/v1/token", data=FORM)).status_code == 200


async def test_an_anonymous_caller_is_told_so(at: Ours) -> None:
    client, _ = at
    said = (await client.get("/api/v1/users/me")).json()
    assert (said["anonymous"], said["username"], said["id"][:5]) == (True, "anonymous", "anon_")


async def test_no_answer_and_no_record_holds_a_password(at: Ours) -> None:
    client, services = at
    answers = [
        await client.post("/api/v1/users", json=CAROL),
        await client.post("/api/v1/users", json={**CAROL, "username": "a/b"}),
        await client.post("/api/v1/users", json={**CAROL, "password": ["a long enough one"]}),
        await client.post("/api/v1/token", data={**FORM, "grant_type": "other"}),
        await client.post("/api/v1/token", data=FORM),
    ]
    assert not [each.text for each in answers if FORM["password"] in each.text or "argon2" in each.text]
    user = await services.store.find(User, "username", {"tenant": "default", "username": "carol"})
    assert user is not None
    assert user.password_hash.startswith("$argon2id$")


@pytest.mark.parametrize(
    ("changed", "field"), [({"email": "other@example.org"}, "username"), ({"username": "dora"}, "email")]
)
async def test_a_name_and_an_email_are_taken_once(at: Ours, changed: dict[str, str], field: str) -> None:
    client, services = at
    await client.post("/api/v1/users", json=CAROL)
    answer = await client.post("/api/v1/users", json={**CAROL, **changed})
    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (409, "taken", f"{field} is taken")
    assert (await kept(services))["users"] == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"username": ""}, "username"),
        ({"username": " carol"}, "username"),
        ({"username": "a/b"}, "username"),
        ({"username": "a\nb"}, "username"),
        ({"username": "x" * 65}, "username"),
        ({"password": "short"}, "password"),
        ({"password": "x" * 1025}, "password"),
        ({"email": "nobody"}, "email"),
        ({"email": "a@" + "x" * 300}, "email"),
        ({"is_admin": True}, "is_admin"),
        ({"tenant": "other"}, "tenant"),
    ],
)
async def test_what_cannot_be_an_account_is_named(at: Ours, changed: dict[str, object], field: str) -> None:
    client, services = at
    answer = await client.post("/api/v1/users", json={**CAROL, **changed})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert (await kept(services))["users"] == 0


async def test_a_wrong_name_and_a_wrong_password_are_told_alike(at: Ours) -> None:
    client, _ = at
    await client.post("/api/v1/users", json=CAROL)
    answers = [
        await client.post("/api/v1/token", data={**FORM, **wrong})
        for wrong in ({"password": "another one"}, {"username": "nobody"}, {"username": "Carol"})
    ]
    told = [{**answer.json(), "request_id": ""} for answer in answers]
    assert [answer.status_code for answer in answers] == [401] * 3
    assert told == [told[0]] * 3
    assert answers[0].headers["www-authenticate"] == "Bearer"


async def test_a_token_is_good_until_it_expires(at: Ours) -> None:
    client, _ = at
    with time_machine.travel(PAST, tick=False) as clock:
        await client.post("/api/v1/users", json=CAROL)
        token = (await client.post("/api/v1/token", data=FORM)).json()["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        clock.shift(3599)
        assert (await client.get("/api/v1/users/me", headers=headers)).status_code == 200
        clock.shift(1)
        late = await client.get("/api/v1/users/me", headers=headers)
        assert (late.status_code, late.json()["detail"]) == (401, "the access token has expired")


async def test_attempts_to_log_in_are_limited_by_address_and_by_account(tmp_path: Path) -> None:
    limit = {"LOQUENT_LIMIT_LOGINS": "3/minute"}
    async with serving(tmp_path, works=False, **limit) as (app, services):
        await services.accounts.register("carol", FORM["password"])
        with time_machine.travel(PAST, tick=False) as clock:
            async with client_of(app, client=("10.0.0.1", 1)) as one, client_of(app, client=("10.0.0.2", 1)) as other:
                wrong = {**FORM, "password": "wrong one"}
                statuses = [(await one.post("/api/v1/token", data=wrong)).status_code for _ in range(3)]
                refused = await one.post("/api/v1/token", data=FORM)
                assert (statuses, refused.status_code, refused.headers["retry-after"]) == ([401] * 3, 429, "60")
                elsewhere = await other.post("/api/v1/token", data=FORM)
                assert elsewhere.status_code == 429, "the account is guarded wherever one tries from"
                fresh = await other.post("/api/v1/token", data={**FORM, "username": "dora"})
                assert fresh.status_code == 401
                clock.shift(60)
                assert (await one.post("/api/v1/token", data=FORM)).status_code == 200


async def test_registering_is_limited_by_address(tmp_path: Path) -> None:
    limit = {"LOQUENT_LIMIT_LOGINS": "2/minute"}
    async with serving(tmp_path, works=False, **limit) as (app, services), client_of(app) as client:
        answers = [await client.post("/api/v1/users", json={**FORM, "username": f"user {n}"}) for n in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert (await kept(services))["users"] == 2
