"""Downloads of files that lie in a bucket: through us by default, by a link to the bucket where that is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from asking import client_of, serving, token_of
from s3_server import S3Server, with_keys
from samples import pictures

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("s3")]

TEXT = b"<script>alert(1)</script> is what this plain text says, and a lot more besides"
UPLOADS = [("documents", "aare.txt", TEXT), ("images", "aare.png", pictures.plain("PNG"))]
NAMED = pytest.mark.parametrize(("nouns", "name", "data"), UPLOADS, ids=[each[0] for each in UPLOADS])
Two = tuple[httpx2.AsyncClient, httpx2.AsyncClient]


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    with_keys(monkeypatch)
    return s3.url()


@asynccontextmanager
async def clients(folder: Path, **environ: str) -> AsyncIterator[Two]:
    """Two users of an application."""
    async with (
        serving(folder, **environ) as (app, services),
        client_of(app, token_of(services, "ann")) as ann,
        client_of(app, token_of(services, "bob")) as bob,
    ):
        yield ann, bob


async def uploaded(client: httpx2.AsyncClient, nouns: str, name: str, data: bytes) -> str:
    """The path of its original."""
    made = await client.post(f"/api/v1/{nouns}", files={"file": (name, data)})
    assert made.status_code == 201, made.text
    return f"/api/v1/{nouns}/{made.json()['id']}/original"


@NAMED
async def test_a_file_in_a_bucket_comes_through_us_by_default(
    tmp_path: Path, bucket: str, nouns: str, name: str, data: bytes
) -> None:
    async with clients(tmp_path, LOQUENT_BLOBS=bucket) as (ann, bob):
        path = await uploaded(ann, nouns, name, data)
        answer = await ann.get(path)
        assert (answer.status_code, len(answer.content)) == (200, int(answer.headers["content-length"]))
        assert answer.content == data or nouns == "images", "pictures are written anew"
        assert answer.headers["content-disposition"].startswith(f'attachment; filename="{name}"')
        assert (await bob.get(path)).status_code == 404
        assert (await ann.delete(path.removesuffix("/original"))).status_code == 204
        assert (await ann.get(path)).status_code == 404


@NAMED
async def test_where_it_is_set_the_owner_is_sent_on_to_the_bucket_and_nobody_else(
    tmp_path: Path, bucket: str, nouns: str, name: str, data: bytes
) -> None:
    async with (
        clients(tmp_path, LOQUENT_BLOBS=bucket, LOQUENT_BLOBS_PRESIGN="on") as (ann, bob),
        httpx2.AsyncClient() as anybody,
    ):
        path = await uploaded(ann, nouns, name, data)
        sent_on = await ann.get(path)
        assert (sent_on.status_code, sent_on.content, sent_on.headers["cache-control"]) == (307, b"", "no-store")
        link = sent_on.headers["location"]
        answer = await anybody.get(link)
        assert answer.status_code == 200
        assert answer.content == data or nouns == "images"
        assert answer.headers["content-disposition"].startswith(f'attachment; filename="{name}"')
        assert answer.headers["content-type"] == "application/octet-stream"
        refused = await bob.get(path)
        assert refused.status_code == 404
        assert "location" not in refused.headers
        assert (await ann.delete(path.removesuffix("/original"))).status_code == 204
        assert (await anybody.get(link)).status_code == 404, "what is erased is gone by a link, too"


async def test_where_the_place_for_files_has_no_links_they_come_through_us_all_the_same(tmp_path: Path) -> None:
    async with clients(tmp_path, LOQUENT_BLOBS_PRESIGN="on") as (ann, _):
        answer = await ann.get(await uploaded(ann, *UPLOADS[0]))
        assert (answer.status_code, answer.content) == (200, TEXT)
