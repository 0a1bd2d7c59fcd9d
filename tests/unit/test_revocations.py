"""Revocations: whose tokens end, in which processes, and what ends with them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
import time_machine

from asking import JSON, Answer, ask, serving
from built import opened, shared, two, wanted
from loquent.domain.clock import SECOND, now
from loquent.domain.errors import LoquentError, Taken, Unauthenticated
from loquent.domain.generations import Generation
from loquent.domain.users import ADMIN, USER
from loquent.services.revocations import SLACK
from loquent.web.edge import Edge
from loquent.wiring import Services

pytestmark = pytest.mark.anyio
PASSWORD = "correct horse"
SAME = {"LOQUENT_SECRET": "a secret that all processes share", "LOQUENT_PASSWORD_THREADS": "1"}
OURS, CHAT, RESPONSES = "/api/v1/generations", "/v1/chat/completions", "/v1/responses"
ENDLESS = "[slow 0.01] [words 5000] word"
SECONDS = 20.0  # in which everybody has long heard; the promise is about one


async def token_of(services: Services, name: str = "ann") -> str:
    """A token of somebody who has logged in, for the first time or again."""
    with suppress(Taken):
        await services.accounts.register(name, PASSWORD)
    return await services.accounts.log_in(name, PASSWORD)


def is_good(services: Services, token: str) -> bool:
    try:
        return bool(services.accounts.who(token, "192.0.2.1"))
    except Unauthenticated as refused:
        assert "revoked" in refused.message
        return False


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_all_processes_hear_of_it_by_themselves(tmp_path: Path) -> None:
    async with two(tmp_path, **SAME) as (one, other):
        ann, bob = await token_of(one), await token_of(one, "bob")
        assert is_good(one, ann) and is_good(other, ann) and is_good(other, bob)
        await one.accounts.revoke("ann")
        await until(lambda: not is_good(one, ann) and not is_good(other, ann))
        anew = await token_of(other)
        assert is_good(one, anew) and is_good(other, anew) and is_good(other, bob)


async def test_whoever_is_disabled_has_no_good_token_until_the_next_login(tmp_path: Path) -> None:
    async with two(tmp_path, **SAME) as (one, other):
        before = await token_of(one)
        user = await one.accounts.set_active("ann", is_active=False)
        meanwhile = one.tokens.issue(user)  # a login that was under way in a process that had not heard
        await other.revocations.look()
        assert not is_good(other, before) and not is_good(other, meanwhile)
        await one.accounts.set_active("ann", is_active=True)
        await other.revocations.look()
        assert not is_good(other, before) and not is_good(other, meanwhile)
        assert is_good(other, await token_of(one))


async def test_a_process_that_starts_later_has_heard_of_it(tmp_path: Path) -> None:
    settings = {**shared(tmp_path), **SAME, "LOQUENT_TOKEN_MINUTES": "525600"}
    moment = now() / SECOND
    with time_machine.travel(moment - 300 * 86_400) as clock:
        async with opened(tmp_path, **settings) as services:
            token = await token_of(services)
            clock.shift(1)
            await services.accounts.revoke("ann")
            clock.move_to(moment)
        async with opened(tmp_path, **settings) as services:
            assert not is_good(services, token)


async def test_it_is_told_when_it_happens_and_not_at_every_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "loquent.revocations")
    settings = {**shared(tmp_path), **SAME}
    async with opened(tmp_path, **settings) as services:
        await token_of(services)
        await services.accounts.set_active("ann", is_active=False)
        await services.revocations.look()
        assert caplog.messages.count("tokens revoked") == 1
    async with opened(tmp_path, **settings) as services:
        assert not is_good(services, services.tokens.issue(await services.accounts.set_role("ann", USER)))
        assert caplog.messages.count("tokens revoked") == 1
        await services.accounts.set_active("ann", is_active=True)
        await services.revocations.look()
        assert caplog.messages.count("tokens revoked") == 2


async def test_a_clock_that_is_behind_hides_nothing(tmp_path: Path) -> None:
    async with two(tmp_path, **SAME) as (one, other):
        token = await token_of(one)
        await other.revocations.look()
        with time_machine.travel(now() / SECOND - SLACK / 2):
            user = await one.accounts.set_active("ann", is_active=False)
        assert (user.tokens_from or 0) < now()
        await other.revocations.look()
        assert not is_good(other, token)


async def test_a_store_that_is_away_changes_nothing_and_is_looked_at_again(tmp_path: Path) -> None:
    async with two(tmp_path, **SAME) as (one, other):
        ann, bob = await token_of(one), await token_of(one, "bob")
        await one.accounts.revoke("ann")
        await other.revocations.look()
        await other.store.close()
        with pytest.raises(LoquentError):
            await other.revocations.look()
        await one.accounts.revoke("bob")
        assert not is_good(other, ann) and is_good(other, bob)
        await other.store.open()
        await until(lambda: not is_good(other, bob))


# What ends


async def streamed(app: Edge, path: str, token: str, pieces: list[bytes] | None = None, **body: Any) -> Answer:
    """What a stream said, to its end."""
    asks: dict[str, Any] = {OURS: {"prompt": ENDLESS}, RESPONSES: {"input": ENDLESS, "model": "echo"}}
    asks[CHAT] = {"model": "echo", "messages": [{"role": "user", "content": ENDLESS}]}
    headers = [JSON, ("authorization", f"Bearer {token}")]

    def seen(piece: bytes) -> bool:
        pieces.append(piece) if pieces is not None else None
        return False

    sent = json.dumps({**asks[path], "stream": True, **body}).encode()
    return await ask(app, "POST", path, headers=headers, body=sent, seen=seen)


@pytest.mark.parametrize(("path", "last"), [(OURS, "event: error"), (CHAT, '"error"'), (RESPONSES, "response.failed")])
async def test_open_streams_end_with_an_error_and_others_go_on(tmp_path: Path, path: str, last: str) -> None:
    async with serving(tmp_path, **SAME) as (app, services):
        ann, bob = await token_of(services), await token_of(services, "bob")
        owner = services.accounts.who(ann, "").owner
        theirs: list[bytes] = []
        running = asyncio.create_task(streamed(app, path, ann, theirs))
        other = asyncio.create_task(streamed(app, path, bob))
        await until(lambda: len(services.runner.lives) == 2 and len(theirs) > 3)
        await services.accounts.set_active("ann", is_active=False)
        async with asyncio.timeout(SECONDS):
            answer = await running
        assert answer.is_whole and answer.status == 200
        said = answer.body.decode().strip().rpartition("\n\n")[2]
        assert last in said and "revoked" in said
        [left] = services.runner.lives.values()
        assert left.generation.owner != owner and not other.done()
        order = {"tenant": "default", "owner": owner}
        [kept] = (await services.store.page(Generation, "newest", order, limit=5)).items
        assert (kept.status, kept.error_code, kept.finish_reason) == ("failed", "unauthenticated", "interrupted")
        assert kept.output_characters, "what was said is kept"
        assert (await streamed(app, path, ann)).status == 401
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


async def test_whoever_waits_for_the_whole_is_told_too(tmp_path: Path) -> None:
    async with serving(tmp_path, **SAME) as (app, services):
        running = asyncio.create_task(streamed(app, OURS, await token_of(services), stream=False))
        await until(lambda: services.runner.lives)
        await services.accounts.revoke("ann")
        async with asyncio.timeout(SECONDS):
            assert (await running).status == 401


async def test_who_has_logged_in_again_keeps_what_is_open(tmp_path: Path) -> None:
    async with two(tmp_path, **SAME) as (one, other):
        await token_of(one)
        await one.accounts.revoke("ann")
        fresh = other.accounts.who(await one.accounts.log_in("ann", PASSWORD), "")
        begun = await other.generations.begin(fresh, wanted("[slow 0.05] [words 10] on and on"))
        running = asyncio.create_task(other.generations.collect(begun))
        await asyncio.sleep(0.1)
        await other.revocations.look()
        await running
        assert begun.now()[0].status == "completed"


@pytest.mark.parametrize("is_here", [True, False])
async def test_following_ends_with_an_error_and_the_job_goes_on(tmp_path: Path, is_here: bool) -> None:
    async with serving(tmp_path, works=is_here, **SAME) as (app, services):
        token = await token_of(services)
        headers = [("authorization", f"Bearer {token}")]
        who = services.accounts.who(token, "")
        begun = await services.generations.submit(who, wanted("[hang] x"))
        if is_here:
            await until(lambda: services.runner.lives)
        path = f"{OURS}/{begun.generation.id}/events"
        following = asyncio.create_task(ask(app, "GET", path, headers=headers))
        await asyncio.sleep(0.1)
        await services.accounts.revoke("ann")
        async with asyncio.timeout(SECONDS):
            answer = await following
        error = answer.status == 401 or b"event: error" in answer.body
        assert error and b"revoked" in answer.body
        assert bool(services.runner.lives) == is_here
        [kept] = await services.store.get(Generation, begun.generation.id)
        assert not kept.is_over


async def test_a_body_that_was_long_under_way_begins_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, **SAME) as services:
        who = services.accounts.who(await token_of(services), "")
        await services.accounts.revoke("ann")
        await services.revocations.look()
        with pytest.raises(Unauthenticated):
            await services.generations.begin(who, wanted("hello"))


async def test_a_caller_who_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    async with opened(tmp_path, **SAME) as services:
        who = services.accounts.who(await token_of(services), "")
        begun = await services.generations.begin(who, wanted(ENDLESS, streamed=True))

        async def stalled() -> None:
            async with aclosing(services.generations.stream(begun)) as chunks:  # type: ignore[type-var]
                async for _ in chunks:
                    await asyncio.Event().wait()

        stalling = asyncio.create_task(stalled())
        await until(lambda: services.runner.lives)
        await services.accounts.revoke("ann")
        await until(lambda: stalling.cancelled() and not services.runner.lives)


async def test_what_else_changes_of_an_account_ends_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, **SAME) as services:
        await token_of(services)
        await services.accounts.revoke("ann")
        await services.revocations.look()
        who = services.accounts.who(await token_of(services), "")
        begun = await services.generations.begin(who, wanted("[slow 0.01] [words 5] word"))
        running = asyncio.create_task(services.generations.collect(begun))
        await until(lambda: services.runner.lives)
        await services.accounts.set_role("ann", ADMIN)
        await services.revocations.look()
        assert (await running).now()[0].status == "completed"
