"""Accounts: who may ask. Register, log in, and tell from a token who it is.

Later rooms, left visible: API keys, tenants' own administrators, password reset, OIDC.
"""

from __future__ import annotations

from loquent.domain import ids
from loquent.domain.clock import now
from loquent.domain.errors import Forbidden, NotFound, Unauthenticated
from loquent.domain.evolve import evolve
from loquent.domain.principals import DEFAULT_TENANT, UNKNOWN, Principal
from loquent.domain.users import ADMIN, USER, User, check_credentials
from loquent.ports.store import Add, Page, Position, Store
from loquent.services.amend import amend
from loquent.services.passwords import Passwords
from loquent.services.tokens import Tokens


class Accounts:
    """The people and programs that are known. Takes the whole store: before a login there is no scope."""

    def __init__(self, store: Store, tokens: Tokens, passwords: Passwords, *, takes_anonymous: bool) -> None:
        self._store = store
        self._tokens = tokens
        self._passwords = passwords
        self._takes_anonymous = takes_anonymous

    async def register(self, username: str, password: str, email: str | None = None, *, role: str = USER) -> User:
        """A new account in the default tenant. Raises Invalid, or Taken naming ``username`` or ``email``.

        Nobody is an administrator but who is made one by name, on the operator's command line.
        """
        check_credentials(username, password, email)
        user = User(
            id=ids.new("usr"),
            version=0,
            tenant=DEFAULT_TENANT,
            username=username,
            email=email,
            password_hash=await self._passwords.hash(password),
            is_active=True,
            created_at=now(),
            role=role,
        )
        await self._store.write(Add(user))
        return user

    async def log_in(self, username: str, password: str, *, minutes: int | None = None) -> str:
        """An access token, good for that many minutes (None: as the deployment says).

        Raises Unauthenticated (one message for a wrong name and a wrong password) or Forbidden.
        """
        user = await self._store.find(User, "username", {"tenant": DEFAULT_TENANT, "username": username})
        if not await self._passwords.matches(password, user.password_hash if user else None) or user is None:
            raise Unauthenticated("the username or the password is wrong")
        if not user.is_active:
            raise Forbidden("this account is not active")
        return self._tokens.issue(user, minutes=minutes)

    async def page(self, *, limit: int, after: str | None = None) -> Page[User]:
        """The accounts of the default tenant, newest first, from behind the id ``after``."""
        position = Position(after, after) if after else None
        return await self._store.page(User, "newest", {"tenant": DEFAULT_TENANT}, limit=limit, after=position)

    async def set_active(self, username: str, *, is_active: bool) -> User:
        """Let somebody log in, or no more; either way no token that was given before is good. Raises NotFound."""
        return await self._change(username, is_active=is_active, tokens_from=now())

    async def revoke(self, username: str) -> User:
        """End all tokens that somebody has; a new login gives good ones. See Revocations. Raises NotFound."""
        return await self._change(username, tokens_from=now())

    async def set_role(self, username: str, role: str) -> User:
        """Make somebody an administrator from their next login on (ADMIN), or no more, at once (USER).

        Raises NotFound.
        """
        return await self._change(username, role=role)

    async def _change(self, username: str, **fields: object) -> User:
        user = await self._store.find(User, "username", {"tenant": DEFAULT_TENANT, "username": username})
        if user is None:
            raise NotFound(f"there is no user {username!r}")
        return await amend(self._store, User, user.id, lambda known: evolve(known, **fields))

    @property
    def token_seconds(self) -> int:
        """Seconds for which a token is good."""
        return self._tokens.seconds

    def who(self, token: str | None, address: str) -> Principal:
        """Who asks, by token, or anonymously from that address where that is allowed. Raises Unauthenticated."""
        if token is not None:
            return self._tokens.check(token)
        if self._takes_anonymous and address == UNKNOWN:  # all who are would be one, and read each other's
            raise Unauthenticated("log in: the proxies do not agree on where this comes from")
        if self._takes_anonymous:
            return self._tokens.anonymous(address)
        raise Unauthenticated("log in first: this needs an access token")

    async def check_admin(self, who: Principal) -> None:
        """Return where it is an administrator who asks: by the token, and by the account as it stands now.

        Raises Unauthenticated for somebody without an account, Forbidden for everybody else.
        """
        if who.is_anonymous:
            raise Unauthenticated("log in first: this is for administrators")
        if not await self.is_admin(who):
            raise Forbidden("this is for administrators; who was made one just now logs in again")

    async def is_admin(self, who: Principal) -> bool:
        """The same as an answer; of those who do not say that they are one, no account is looked at."""
        if not who.is_admin or who.is_anonymous:
            return False
        found = await self._store.get(User, who.owner)
        return any(each.tenant == who.tenant and each.is_active and each.role == ADMIN for each in found)

    async def me(self, who: Principal) -> User | None:
        """The account of the one who asks; None for an anonymous caller. Raises NotFound where it is gone."""
        if who.is_anonymous:
            return None
        found = await self._store.get(User, who.owner)
        if not found or found[0].tenant != who.tenant:
            raise NotFound("this account is gone")
        return found[0]
