"""Register and log in as every surface does it: under one rule, and counted by the same names."""

from __future__ import annotations

from fastapi import Request

from loquent.domain.errors import Forbidden
from loquent.domain.users import User
from loquent.services import limits
from loquent.web.direct import address
from loquent.wiring import Services


async def register(
    request: Request, services: Services, username: str, password: str, email: str | None = None
) -> User:
    """Make an account. Raises Forbidden where only the operator makes any, Over where too many come from one address,
    and what Accounts.register does.
    """
    if not services.settings.registration:
        raise Forbidden("accounts are made by whoever runs this server")
    await services.limits.take(limits.LOGINS, f"register {address(request.scope)}")
    return await services.accounts.register(username, password, email)


async def log_in(
    request: Request, services: Services, username: str, password: str, *, minutes: int | None = None
) -> str:
    """An access token, good for that many minutes (None: as the deployment says).

    Raises Over where too many come from one address or for one account, and what Accounts.log_in does.
    """
    for whom in (f"from {address(request.scope)}", f"to {username}"):
        await services.limits.take(limits.LOGINS, whom)
    return await services.accounts.log_in(username, password, minutes=minutes)
