"""What each route says while the disk is nearly full: 507 to what is new, and everything else as ever."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from asking import MULTIPART, ask, serving, token_of
from loquent.domain.errors import OutOfSpace
from loquent.web.edge import CHANGING, Edge
from loquent.web.errors import ours, status
from loquent.wiring import Services
from surfaces import ACCESS

pytestmark = pytest.mark.anyio
GOES_ON = {
    ("POST", "/api/v1/generations/{id}/cancel"),
    ("POST", "/api/v1/sessions/{id}/stop"),
    ("POST", "/api/v1/models/{name:path}/test"),
    ("POST", "/v1/responses/{id}/cancel"),
    ("POST", "/api/v1/token"),
    ("POST", "/auth/login"),
    ("POST", "/token"),
}
"""Of what changes anything, what ends something or adds nothing."""


def test_a_form_whose_file_meets_the_end_of_the_disk_is_told_of_the_disk() -> None:
    refused = HTTPException(400, "There was an error parsing the body")  # as the library says of any fault
    refused.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(ours(refused), OutOfSpace)
    assert status(ours(OSError(errno.EDQUOT, "Disk quota exceeded"))) == 507
    assert status(ours(OSError(errno.EIO, "Input/output error"))) == 500


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[tuple[Edge, Services]]:
    async with serving(tmp_path) as (app, services):
        services.room._reserve = 1 << 60  # more than any disk has
        await asyncio.to_thread(services.room._look)
        yield app, services


async def test_what_is_new_is_refused_by_every_route_and_in_the_words_of_its_surface(
    at: tuple[Edge, Services],
) -> None:
    app, services = at
    headers = [("authorization", f"Bearer {token_of(services, 'ann')}")]
    refused = set()
    for method, path in sorted(ACCESS):
        answer = await ask(app, method, path.replace("{id}", "gen_x").replace("{name:path}", "echo"), headers=headers)
        if answer.status == 507:
            refused.add((method, path))
            assert answer.header("retry-after"), path
            assert "nearly full" in answer.body.decode(), path
    assert refused == {each for each in ACCESS if each[0] in CHANGING} - GOES_ON


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/v1/generations", '"code":"insufficient_storage"'),
        ("/v1/chat/completions", '"error":{"message":"the disk is nearly full'),
        ("/text_generations", '{"detail":"[E027] the disk is nearly full'),
        ("/chat", '{"detail":"the disk is nearly full'),
    ],
)
async def test_each_surface_says_it_in_its_own_form(at: tuple[Edge, Services], path: str, said: str) -> None:
    answer = await ask(at[0], "POST", path)
    assert answer.status == 507
    assert said in answer.body.decode()


async def test_health_is_degraded_and_says_why_and_requests_are_still_taken(at: tuple[Edge, Services]) -> None:
    told = (await ask(at[0], "GET", "/api/v1/health/detailed")).json()
    assert (told["status"], told["checks"]["disk"][:24]) == ("degraded", "the disk is nearly full:")
    assert (await ask(at[0], "GET", "/api/v1/health/ready")).status == 200
    assert b"loquent_disk_free_bytes" in (await ask(at[0], "GET", "/metrics")).body


async def test_an_upload_is_refused_before_its_body_is_read_where_those_on_their_way_take_the_room(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, LOQUENT_ANONYMOUS="on") as (app, services):
        [left] = services.room._left.values()
        services.room.hold(others := left - services.settings.free_space - 5_000_000)
        answer = await ask(app, "POST", "/api/v1/documents", headers=[MULTIPART], length=3_000_000, ends=False)
        assert (answer.status, answer.json()["code"]) == (507, "insufficient_storage")
        assert (await ask(app, "GET", "/api/v1/documents")).status == 200
        assert services.room._held == others
