"""The contract of every place for uploaded files; never naming one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from loquent.blobs import SCHEMES, connect
from loquent.domain import ids
from loquent.domain.clock import SECOND, Moment, later, now
from loquent.domain.errors import Invalid, Misconfigured, NotFound
from loquent.ports.blobs import Blobs
from s3_server import S3Server, with_keys

pytestmark = pytest.mark.anyio


def served(request: pytest.FixtureRequest, folder: Path) -> str:
    server: S3Server = request.getfixturevalue("s3")
    with_keys(request.getfixturevalue("monkeypatch"))
    return server.url()


EMPTY: dict[str, Callable[[pytest.FixtureRequest, Path], str]] = {
    "file": lambda request, folder: f"file://{folder}/blobs",
    "s3": served,
}
"""For each scheme, the URL of an empty place of its own."""


@pytest.fixture(params=EMPTY)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return EMPTY[request.param](request, tmp_path)


@pytest.fixture
async def blobs(url: str) -> AsyncIterator[Blobs]:
    opened = connect(url)
    await opened.open()
    yield opened
    await opened.close()


def test_every_scheme_is_held_to_the_contract() -> None:
    assert set(EMPTY) == set(SCHEMES)


def test_an_unknown_scheme_is_named_and_a_password_is_not() -> None:
    with pytest.raises(Misconfigured, match=r"LOQUENT_BLOBS.*gopher") as refused:
        connect("gopher://me:secret@host/x")
    assert "secret" not in refused.value.message


def under(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def fresh(kind: str = "documents") -> str:
    return f"{kind}/{ids.new('doc')}"


async def whole(blobs: Blobs, key: str) -> bytes:
    return b"".join([piece async for piece in blobs.get(key)])


async def keys(blobs: Blobs, until: Moment) -> set[str]:
    found = [kept.key async for kept in blobs.list(until=until)]
    assert len(found) == len(set(found))
    return set(found)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    """A file with these bytes, as an upload lies there before it is kept."""

    def write(data: bytes) -> Path:
        path = tmp_path / f"upload-{random.randrange(10**12)}"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_what_is_put_comes_back_piece_by_piece(blobs: Blobs, file: Callable[[bytes], Path], size: int) -> None:
    data, key = random.Random(size).randbytes(size), fresh()
    source = file(data)
    await blobs.put(key, source)
    pieces = [piece async for piece in blobs.get(key)]
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= 1 << 20 for piece in pieces)
    assert source.read_bytes() == data, "it is a copy"


async def test_it_is_there_after_another_open(url: str, blobs: Blobs, file: Callable[[bytes], Path]) -> None:
    key = fresh()
    await blobs.put(key, file(b"kept"))
    await blobs.close()
    again = connect(url)
    await again.open()
    assert await whole(again, key) == b"kept"
    await again.close()
    await again.close()


async def test_what_is_not_there_is_not_found_before_the_first_byte_and_removed_by_doing_nothing(blobs: Blobs) -> None:
    with pytest.raises(NotFound):
        await anext(blobs.get(fresh()))
    await blobs.remove(fresh())


async def test_what_is_removed_is_gone_and_the_rest_stays(blobs: Blobs, file: Callable[[bytes], Path]) -> None:
    one, other = fresh(), fresh("images")
    for key in (one, other):
        await blobs.put(key, file(key.encode()))
    await blobs.remove(one)
    await blobs.remove(one)
    with pytest.raises(NotFound):
        await whole(blobs, one)
    assert await whole(blobs, other) == other.encode()
    assert await keys(blobs, later(now(), 60)) == {other}


async def test_a_key_in_use_gets_the_new_bytes_as_a_whole(blobs: Blobs, file: Callable[[bytes], Path]) -> None:
    key = fresh()
    old, new = b"a" * 500_000, b"b" * 400_000
    await blobs.put(key, file(old))
    source = file(new)
    seen = set()

    async def read() -> None:
        for _ in range(20):
            seen.add(await whole(blobs, key))

    await asyncio.gather(read(), blobs.put(key, source), read())
    assert seen <= {old, new}, "never a mixture, never a part"
    assert await whole(blobs, key) == new


async def test_a_put_that_fails_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    key = fresh()
    with pytest.raises(Exception, match=r".") as failed:
        await blobs.put(key, tmp_path / "no such file")
    assert not isinstance(failed.value, AttributeError | TypeError)
    with pytest.raises(NotFound):
        await whole(blobs, key)
    assert await keys(blobs, later(now(), 60)) == set()


async def test_who_is_cancelled_in_a_put_leaves_all_of_it_or_nothing(
    blobs: Blobs, file: Callable[[bytes], Path]
) -> None:
    data = b"x" * 2_000_000
    for wait in (0.0, 0.001, 0.005):
        key = fresh()
        task = asyncio.create_task(blobs.put(key, file(data)))
        await asyncio.sleep(wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with suppress(NotFound):
            assert await whole(blobs, key) == data
        before = await keys(blobs, later(now(), 60))
        await asyncio.sleep(0.05)
        assert await keys(blobs, later(now(), 60)) == before, "nothing goes on behind the back of who was cancelled"


async def test_a_read_that_is_left_early_holds_nothing(blobs: Blobs, file: Callable[[bytes], Path]) -> None:
    key = fresh()
    await blobs.put(key, file(b"x" * 1_000_000))
    for _ in range(300):  # more than the files that a process may have open at the same time, nearly
        pieces = blobs.get(key)
        await anext(pieces)
        await pieces.aclose()


async def test_a_list_has_every_blob_up_to_the_moment_with_its_size(
    blobs: Blobs, file: Callable[[bytes], Path]
) -> None:
    wanted = {fresh(kind): size for size, kind in enumerate(["documents", "images"] * 40)}
    began = later(now(), -1)
    for key, size in wanted.items():
        await blobs.put(key, file(b"x" * size))
    found = {kept.key: kept async for kept in blobs.list(until=later(now(), 2))}
    assert {key: kept.size for key, kept in found.items()} == wanted
    assert all(began - SECOND <= kept.kept_at <= later(now(), 1) for kept in found.values())
    oldest = min(kept.kept_at for kept in found.values())
    assert await keys(blobs, Moment(oldest - 2 * SECOND)) == set()


async def test_a_list_outlives_what_is_removed_while_it_goes_on(blobs: Blobs, file: Callable[[bytes], Path]) -> None:
    wanted = {fresh() for _ in range(30)}
    for key in wanted:
        await blobs.put(key, file(b"x"))
    seen = set()
    async for kept in blobs.list(until=later(now(), 60)):
        seen.add(kept.key)
        await blobs.remove(kept.key)
    assert seen == wanted
    assert await keys(blobs, later(now(), 60)) == set()


@pytest.mark.parametrize(
    "key",
    [
        *("", "documents", "documents/", "/etc/passwd", "../x/doc_11", "documents/../../x", "documents/.."),
        *("documents/a/b", "documents/DOC_11", "documents/a.b", "documents/a\0b", "documents/a\n", "documents//aa"),
        "documents/" + "a" * 300,
    ],
)
async def test_what_is_no_key_of_ours_reaches_nothing(
    blobs: Blobs, file: Callable[[bytes], Path], tmp_path: Path, key: str
) -> None:
    source = file(b"x")
    before = under(tmp_path)
    with pytest.raises(Invalid):
        await blobs.put(key, source)
    with pytest.raises(Invalid):
        await whole(blobs, key)
    with pytest.raises(Invalid):
        await blobs.remove(key)
    with pytest.raises(Invalid):
        blobs.address(key)
    assert under(tmp_path) == before


async def test_an_address_is_a_url_of_the_scheme_and_each_blob_has_its_own(url: str, blobs: Blobs) -> None:
    one, other = fresh(), fresh()
    assert blobs.address(one) != blobs.address(other)
    assert blobs.address(one) == blobs.address(one)
    assert blobs.address(one).startswith(url.partition(":")[0] + "://")


async def test_it_says_that_it_is_ready(blobs: Blobs) -> None:
    await blobs.ready()
    assert await keys(blobs, later(now(), 60)) == set()
