"""Access tokens: short signed statements of who asks (JWT, RFC 7519), checked without a look into the store.

Who may not ask any more is told here by Revocations.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import jwt

from loquent.domain import ids
from loquent.domain.clock import SECOND, Moment, now
from loquent.domain.errors import Unauthenticated
from loquent.domain.principals import Principal
from loquent.domain.users import ADMIN, User

ALGORITHM = "HS256"  # the only one: a token that names another is refused
PARTY = "loquent"  # issuer and audience
CLAIMS = ["exp", "iat", "sub", "aud", "iss", "jti", "uid", "tid"]
KEPT = 10_000  # verified tokens that are remembered
LONGEST = 4_096  # characters of a token
NEVER = Moment(2**63 - 1)


class Tokens:
    """Issues, checks and revokes access tokens. ``secret`` has 32 bytes or more."""

    def __init__(self, secret: str, *, minutes: int) -> None:
        self._secret = secret
        self.seconds = minutes * 60
        self._verified: dict[str, tuple[Principal, int]] = {}  # by the whole token, so that no part can stand for it
        self._good_from: dict[tuple[str, str], Moment] = {}  # by tenant and owner, where some were revoked

    def issue(self, user: User, *, minutes: int | None = None) -> str:
        """A token for that user, good for that many minutes (None: as the deployment says).

        ``sub`` is the name, ``uid`` and ``tid`` are the owner and the tenant.
        """
        moment = now()
        issued = moment // SECOND
        seconds = self.seconds if minutes is None else minutes * 60
        claims = {
            "sub": user.username,
            "uid": user.id,
            "user_id": user.id,  # images family: its clients read the id here
            "tid": user.tenant,
            "iat": issued,
            "at": moment,  # the same, so finely that a revocation and a new login may fall into one second
            "exp": issued + seconds,
            "iss": PARTY,
            "aud": PARTY,
            "jti": ids.new("jti"),
            **({"role": user.role} if user.role == ADMIN else {}),
        }
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def check(self, token: str) -> Principal:
        """Who the token says asks. Raises Unauthenticated, without saying more than it must."""
        known = self._verified.get(token)
        if known is None:
            known = self._verify(token)
            if len(self._verified) >= KEPT:
                self._verified.clear()
            self._verified[token] = known
        principal, expires = known
        if expires <= now() // SECOND:
            self._verified.pop(token, None)
            raise Unauthenticated("the access token has expired")
        return principal

    def revoke(self, user: User) -> Moment:
        """Take no token of that user any more that was given before ``tokens_from``; of one not active, none at all.

        Gives the moment from which tokens are good.
        """
        whose = (user.tenant, user.id)
        self._good_from[whose] = good_from = (user.tokens_from or Moment(0)) if user.is_active else NEVER
        kept = ((token, known) for token, known in self._verified.items() if _whose(known[0]) != whose)
        self._verified = dict(kept)  # so that what is found there need not be asked again
        return good_from

    def check_stands(self, who: Principal) -> None:
        """Return where the token that said who asks is still good. Raises Unauthenticated where it was revoked."""
        if self._good_from and who.since < self._good_from.get(_whose(who), 0):
            raise revoked()

    def anonymous(self, address: str) -> Principal:
        """The principal of a caller without an account: callers of one address share what is theirs."""
        digest = hmac.new(self._secret.encode(), f"anonymous {address}".encode(), hashlib.sha256).hexdigest()
        return Principal("default", f"anon_{digest[:24]}", "anonymous", is_anonymous=True)

    def _verify(self, token: str) -> tuple[Principal, int]:
        if len(token) > LONGEST:
            raise Unauthenticated("the access token is not valid")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=PARTY,
                issuer=PARTY,
                options={"require": CLAIMS, "verify_exp": False},  # ours, by our own clock, at every use
            )
            if not isinstance(claims["exp"], int):
                raise ValueError("a time is a whole number of seconds")
            is_admin = claims.get("role") == ADMIN
            tenant, owner, name = str(claims["tid"]), str(claims["uid"]), str(claims["sub"])
            since = Moment(int(claims.get("at", claims["iat"] * SECOND)))
            who = Principal(tenant, owner, name, is_admin=is_admin, since=since)
            expires: int = claims["exp"]
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise Unauthenticated("the access token is not valid") from None
        self.check_stands(who)
        return who, expires


def revoked() -> Unauthenticated:
    """What somebody is told whose token has been revoked, also in the midst of an answer."""
    return Unauthenticated("the access token has been revoked")


def _whose(who: Principal) -> tuple[str, str]:
    return who.tenant, who.owner
