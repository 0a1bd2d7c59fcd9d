"""Users and tokens: register, log in, and who am I."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import Field

from loquent.domain.clock import iso
from loquent.domain.users import User
from loquent.web import logins
from loquent.web.answers import json_answer
from loquent.web.body import Wire
from loquent.web.deps import Ours, StrictRoute, Who, check_form

router = APIRouter(prefix="/api/v1", route_class=StrictRoute)


class NewUser(Wire):
    """A new account."""

    username: Annotated[str, Field(min_length=1, max_length=64)]
    password: Annotated[str, Field(min_length=8, max_length=1024)]
    email: Annotated[str, Field(max_length=254)] | None = None


@router.post("/users", status_code=201, tags=["users"], summary="Register")
async def register(request: Request, ours: Ours, body: NewUser) -> Response:
    """Make an account. 409 where the name or the email is taken, 403 where LOQUENT_REGISTRATION is off."""
    user = await logins.register(request, ours, body.username, body.password, body.email)
    return json_answer(_shown(user), status=201)


@router.post("/token", tags=["users"], summary="Log in", dependencies=[Depends(check_form)])
async def log_in(
    request: Request,
    ours: Ours,
    username: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=1024)],
    grant_type: Annotated[str | None, Form(pattern="^password$")] = None,
    scope: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """An access token for a name and a password (OAuth2 password form)."""
    token = await logins.log_in(request, ours, username, password)
    seconds = ours.accounts.token_seconds
    body = {"access_token": token, "token_type": "bearer", "expires_in": seconds}
    return json_answer(body, headers=[(b"cache-control", b"no-store")])


@router.get("/users/me", tags=["users"], summary="Who am I")
async def me(ours: Ours, who: Who) -> Response:
    """The account of the one who asks."""
    user = await ours.accounts.me(who)
    if user is None:
        return json_answer({"id": who.owner, "object": "user", "username": who.name, "anonymous": True})
    return json_answer(_shown(user))


def _shown(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "object": "user",
        "username": user.username,
        "email": user.email,
        "anonymous": False,
        "created_at": iso(user.created_at),
    }
