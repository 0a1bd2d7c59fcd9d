"""The services inside the command's own process: opened for one command, on the same data as a running server."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from loquent.cli.terminal import spinner
from loquent.domain.errors import Invalid, LoquentError, ModelLoading, NotFound
from loquent.domain.principals import DEFAULT_TENANT, Principal
from loquent.domain.users import User
from loquent.services.models import Models, Offer
from loquent.settings import Settings
from loquent.wiring import Services, build
from loquent.wiring.rows import lacking

T = TypeVar("T")
SURFACE = "cli"
LOADED_SECONDS = 0.1  # between looks at a model that loads


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end, logging only what goes wrong. Ctrl-C cancels it, waits for what it keeps, then is raised."""
    from loquent.web.observe import AsText

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(AsText())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    return asyncio.run(work)


@asynccontextmanager
async def opened(
    settings: Settings, *offers: Callable[[Models, Principal], Offer], as_user: str | None = None
) -> AsyncIterator[Services]:
    """The services, with these models alone: another's weights are not loaded. Takes no jobs, counts no rates, tells
    no traces.

    Raises what choosing an offer for that user raises.
    """
    free = replace(settings, limit_generations=(), limit_summaries=(), rate_per_minute=0, rate_per_hour=0, traces="off")
    services = build(free)

    async def choose() -> list[Offer]:
        who = await principal(services, as_user)
        return [offer(services.models, who) for offer in offers]

    try:
        await services.open(works=False, chosen=choose)
        yield services
    finally:
        await services.close()


async def principal(services: Services, username: str | None) -> Principal:
    """Who the command line asks as: that user, or the anonymous caller of this machine, as the local page does."""
    if username is None:
        return services.tokens.anonymous("127.0.0.1")
    found = await services.store.find(User, "username", {"tenant": DEFAULT_TENANT, "username": username})
    if found is None:
        raise NotFound(f"there is no user {username!r}; make one with: loquent users add {username}")
    if not found.is_active:
        raise NotFound(f"{username!r} is disabled; loquent users enable {username} lets them in again")
    return Principal(found.tenant, found.id, found.username)


def missing(settings: Settings) -> dict[str, str]:
    """Of each shipped model that is left out, a line how to get it."""
    return {name: f"the shipped model {name} is left out; get it by: {how}" for name, how in lacking(settings).items()}


async def loaded(offer: Offer) -> None:
    """Return when the model is in memory, with a word to the one who waits. What else is wrong, the call will say."""
    with spinner(f"loading {offer.model.name}") as show:
        while True:
            try:
                await offer.engine.ready()
            except ModelLoading:
                show()
                await asyncio.sleep(LOADED_SECONDS)
            except LoquentError:
                return
            else:
                return


def check_text(text: str, what: str) -> str:
    """The text, where it is one that can be asked and kept. Raises Invalid."""
    if not text.strip():
        raise Invalid(f"{what} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid(f"{what} is not UTF-8") from None
    if "\0" in text:
        raise Invalid(f"{what} has a NUL character in it")
    return text
