"""What routes are given: the services, who asks, and the strict way to read a body."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from loquent.domain.principals import Principal
from loquent.web.body import StrictRequest
from loquent.web.direct import address, bearer
from loquent.wiring import Services


class StrictRoute(APIRoute):
    """A route whose JSON body is read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual one, over a StrictRequest."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


def _services(request: Request) -> Services:
    services: Services = request.scope["loquent.services"]
    return services


def _who(request: Request) -> Principal:
    """Who asks; a route that takes this lets nobody in who is not known, or anonymous where that is allowed."""
    services: Services = request.scope["loquent.services"]
    return services.accounts.who(bearer(request.headers.get("authorization")), address(request.scope))


Ours = Annotated[Services, Depends(_services)]
Who = Annotated[Principal, Depends(_who)]
