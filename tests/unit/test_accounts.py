"""Accounts: registered once, logged in by password, known by token."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
import time_machine

from built import opened, settings_for
from loquent.domain.clock import now
from loquent.domain.errors import Forbidden, Invalid, NotFound, Taken, Unauthenticated, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.principals import Principal
from loquent.domain.users import ADMIN, USER, User
from loquent.ports.store import Replace
from loquent.services.passwords import MOST_WAITING, Passwords
from loquent.services.tokens import Tokens
from loquent.wiring import build

pytestmark = pytest.mark.anyio
SECRET = "s" * 48
PASSWORD = "correct horse"


def user(**more: object) -> User:
    known = {"id": "usr_1", "version": 1, "tenant": "default", "username": "ann", "email": None, "created_at": now()}
    return User(**{**known, "password_hash": "", "is_active": True, **more})  # type: ignore[arg-type]


async def test_who_registers_can_log_in_and_is_known_by_the_token(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = await services.accounts.register("ann", PASSWORD, "ann@example.org")
        token = await services.accounts.log_in("ann", PASSWORD)
        who = services.accounts.who(token, "192.0.2.1")
        assert who == Principal("default", made.id, "ann")
        assert await services.accounts.me(who) == (await services.store.get(User, made.id))[0]
        assert PASSWORD not in repr(await services.store.get(User, made.id))


async def test_names_and_addresses_are_taken_once_also_in_a_race(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        results = await asyncio.gather(
            *(services.accounts.register("ann", PASSWORD) for _ in range(8)), return_exceptions=True
        )
        assert sum(isinstance(each, User) for each in results) == 1
        assert {each.key for each in results if isinstance(each, Taken)} == {"username"}
        await services.accounts.register("bob", PASSWORD, "b@example.org")
        with pytest.raises(Taken, match="email"):
            await services.accounts.register("bobby", PASSWORD, "b@example.org")


@pytest.mark.parametrize(
    ("username", "password", "email", "field"),
    [
        ("", PASSWORD, None, "username"),
        ("x" * 65, PASSWORD, None, "username"),
        ("a/b", PASSWORD, None, "username"),
        ("a\nb", PASSWORD, None, "username"),
        (" ann", PASSWORD, None, "username"),
        ("ann", "short", None, "password"),
        ("ann", "x" * 1025, None, "password"),
        ("ann", PASSWORD, "nobody", "email"),
    ],
)
async def test_what_makes_no_account_is_named(tmp_path: Path, username, password, email, field) -> None:
    async with opened(tmp_path) as services:
        with pytest.raises(Invalid) as refused:
            await services.accounts.register(username, password, email)
    assert refused.value.field == field


async def test_a_wrong_name_and_a_wrong_password_are_told_apart_by_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        await services.accounts.register("ann", PASSWORD)
        said = []
        for name, password in (("ann", "wrong password"), ("nobody", PASSWORD)):
            with pytest.raises(Unauthenticated) as refused:
                await services.accounts.log_in(name, password)
            said.append(refused.value.message)
    assert len(set(said)) == 1


async def test_an_account_that_is_not_active_cannot_log_in(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = await services.accounts.register("ann", PASSWORD)
        [stored] = await services.store.get(User, made.id)

        await services.store.write(Replace(stored, evolve(stored, is_active=False)))
        with pytest.raises(Forbidden):
            await services.accounts.log_in("ann", PASSWORD)


async def test_an_account_that_is_gone_or_anothers_tenant_is_not_found(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        made = await services.accounts.register("ann", PASSWORD)
        for who in (Principal("default", "usr_gone", "ann"), Principal("other", made.id, "ann")):
            with pytest.raises(NotFound):
                await services.accounts.me(who)


async def test_anonymous_callers_are_served_where_that_is_allowed_and_apart_by_address(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        one, other = services.accounts.who(None, "127.0.0.1"), services.accounts.who(None, "192.0.2.7")
        assert one.is_anonymous and one.owner != other.owner
        assert await services.accounts.me(one) is None
    async with opened(tmp_path, LOQUENT_ANONYMOUS="off") as services:
        with pytest.raises(Unauthenticated):
            services.accounts.who(None, "127.0.0.1")


async def test_an_administrator_is_one_by_the_token_and_by_the_account(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        accounts = services.accounts
        first = await accounts.register("ann", PASSWORD)
        assert first.role == "user", "also the first one"
        plain = accounts.who(await accounts.log_in("ann", PASSWORD), "")
        await accounts.set_role("ann", ADMIN)
        with pytest.raises(Forbidden, match="logs in again"):
            await accounts.check_admin(plain)
        root = accounts.who(await accounts.log_in("ann", PASSWORD), "")
        await accounts.check_admin(root)
        for other in (replace(root, tenant="other"), replace(root, owner="usr_gone")):
            assert not await accounts.is_admin(other)
        with pytest.raises(Unauthenticated):
            await accounts.check_admin(accounts.who(None, "127.0.0.1"))
        assert not await accounts.is_admin(replace(accounts.who(None, "127.0.0.1"), owner=root.owner, is_admin=True))
        await accounts.set_active("ann", is_active=False)
        assert not await accounts.is_admin(root)
        await accounts.set_active("ann", is_active=True)
        assert await accounts.is_admin(root)
        await accounts.set_role("ann", USER)
        with pytest.raises(Forbidden):
            await accounts.check_admin(root)
        with pytest.raises(NotFound):
            await accounts.set_role("nobody", ADMIN)


def forged(**changes: object) -> str:
    issued = now() // 1_000_000
    claims: dict[str, object] = {
        "sub": "ann", "uid": "usr_1", "tid": "default", "iat": issued, "exp": issued + 600,
        "iss": "loquent", "aud": "loquent", "jti": "1",
    }  # fmt: skip
    claims |= changes
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, SECRET, algorithm="HS256")


def test_a_good_token_is_taken_until_it_expires_also_when_it_is_remembered() -> None:
    tokens = Tokens(SECRET, minutes=20)
    token = tokens.issue(user())
    with time_machine.travel(now() / 1_000_000, tick=False) as clock:
        assert tokens.check(token).name == "ann"
        clock.shift(20 * 60 - 1)
        assert tokens.check(token).name == "ann"
        clock.shift(1)
        for _ in range(2):
            with pytest.raises(Unauthenticated, match="expired"):
                tokens.check(token)


@pytest.mark.parametrize("claim", ["exp", "iat", "sub", "aud", "iss", "jti", "uid", "tid"])
def test_a_token_without_a_claim_is_refused(claim: str) -> None:
    tokens = Tokens(SECRET, minutes=20)
    assert tokens.check(forged()).owner == "usr_1"
    with pytest.raises(Unauthenticated):
        tokens.check(forged(**{claim: None}))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "é" * 20,
        "x" * 5000,
        jwt.encode({"sub": "ann"}, "t" * 48, algorithm="HS256"),
        jwt.encode({"sub": "ann", "exp": 9e9}, None, algorithm="none"),
    ],
)
def test_what_is_no_token_of_ours_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        Tokens(SECRET, minutes=20).check(token)


@pytest.mark.parametrize(
    "changes",
    [{"aud": "other"}, {"iss": "other"}, {"exp": "soon"}, {"exp": -1}, {"exp": 1e300}, {"iat": 9e9}, {"sub": 7}],
)
def test_a_token_with_a_strange_claim_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Unauthenticated):
        Tokens(SECRET, minutes=20).check(forged(**changes))


def test_a_token_by_another_algorithm_or_another_secret_is_refused() -> None:
    tokens, token = Tokens(SECRET, minutes=20), forged()
    claims = jwt.decode(token, options={"verify_signature": False})
    for other in (jwt.encode(claims, "o" * 48, algorithm="HS256"), jwt.encode(claims, SECRET * 2, algorithm="HS512")):
        with pytest.raises(Unauthenticated):
            tokens.check(other)
    head, body, signature = token.split(".")
    with pytest.raises(Unauthenticated):
        tokens.check(f"{head}.{body}.{signature[:-2]}AA")


async def test_too_many_logins_at_once_are_told_to_come_later() -> None:
    passwords = Passwords(threads=1)
    try:
        results = await asyncio.gather(
            *(passwords.matches("x", "not a hash") for _ in range(MOST_WAITING + 5)), return_exceptions=True
        )
        assert sum(isinstance(each, Unavailable) for each in results) == 5
    finally:
        passwords.close()


async def test_the_program_spends_on_a_password_what_owasp_asks_for(tmp_path: Path) -> None:
    passwords = build(settings_for(tmp_path)).passwords
    try:
        assert (await passwords.hash("a long enough one")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    finally:
        passwords.close()
