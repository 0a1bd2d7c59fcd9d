"""What routes are given: the services, who asks, and the strict way to read a query and a body."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import isawaitable
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.params import Form
from fastapi.routing import APIRoute

from loquent.domain.errors import Invalid
from loquent.domain.principals import Principal
from loquent.web.body import StrictRequest, check_is_form, check_is_json
from loquent.web.direct import address, any_key, bearer, by_token
from loquent.wiring import Services


class StrictRoute(APIRoute):
    """A route that looks at who asks before it reads a body, and reads query and body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual one, over a StrictRequest."""
        handle = super().get_route_handler()
        ask_who = next((each.call for each in self.dependant.dependencies if each.call in KNOWN), None)
        check = None
        if self.body_field is not None:
            check = check_is_form if isinstance(self.body_field.field_info, Form) else check_is_json

        async def strictly(request: Request) -> Response:
            if ask_who is not None:
                found = ask_who(request)
                if isawaitable(found):
                    await found
            if check is not None:
                check(request.headers.get("content-type"))
            _check_query(request)
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


def _services(request: Request) -> Services:
    services: Services = request.scope["loquent.services"]
    return services


def _who(request: Request) -> Principal:
    """Who asks; a route that takes this lets nobody in who is not known, or anonymous where that is allowed."""
    services: Services = request.scope["loquent.services"]
    return services.accounts.who(bearer(request.headers.get("authorization")), address(request.scope))


def _who_by_any_key(request: Request) -> Principal:
    """The same where clients insist on a key: see any_key."""
    return any_key(request.scope["loquent.services"], request.headers.get("authorization"), address(request.scope))


def _who_by_token(request: Request) -> Principal:
    """The same where nobody is served without a token: see by_token."""
    return by_token(request.scope["loquent.services"], request.headers.get("authorization"))


async def _admin(request: Request) -> Principal:
    """Who asks, where that is an administrator, by the account as it stands now."""
    services: Services = request.scope["loquent.services"]
    who = _who(request)
    await services.accounts.check_admin(who)
    return who


def _check_query(request: Request) -> None:
    """Raise Invalid where a name stands twice, unless it says that it is a list: which is meant nobody knows."""
    given = [name for name, _ in request.query_params.multi_items() if not name.endswith("[]")]
    if len(set(given)) < len(given):
        twice = next(name for name in given if given.count(name) > 1)[:100]
        raise Invalid(f"{twice} stands twice in the query", field=twice)


async def check_form(request: Request) -> None:
    """For a route with a form: raise Invalid where a field stands twice in it, or more files than one."""
    sent = (await request.form()).multi_items()
    given = [name for name, _ in sent]
    if twice := next((name[:100] for name in given if given.count(name) > 1), ""):
        raise Invalid(f"{twice} stands twice in the form", field=twice)
    files = [name[:100] for name, value in sent if not isinstance(value, str)]
    if len(files) > 1:
        raise Invalid(f"there are {len(files)} files in the form; it takes one", field=files[1])


Ours = Annotated[Services, Depends(_services)]
Who = Annotated[Principal, Depends(_who)]
WhoByAnyKey = Annotated[Principal, Depends(_who_by_any_key)]
WhoByToken = Annotated[Principal, Depends(_who_by_token)]
Admin = Annotated[Principal, Depends(_admin)]
KNOWN = (_who, _who_by_any_key, _who_by_token, _admin)
"""What a route depends on that is not for everybody."""
