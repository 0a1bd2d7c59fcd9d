"""What only a bucket can get wrong: parts, keys, a server that dies, freezes or damages, links, what is not ours."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import re
import signal
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
import time_machine
from aiobotocore.session import get_session
from aiohttp import ClientConnectionResetError
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from loquent.blobs import connect, s3_wire
from loquent.blobs.s3 import PART, PROBE, READ, S3
from loquent.domain import ids
from loquent.domain.clock import SECOND, later, now
from loquent.domain.errors import Misconfigured, NotFound, Unavailable
from loquent.ports.blobs import Blobs
from s3_server import BUCKET, KEYS, S3Server, s3_server, with_keys

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("s3")]

LARGE = 2 * PART + 12_345
SEEN = logging.getLogger("loquent.blobs")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys(monkeypatch)


@pytest.fixture
def url(s3: S3Server) -> str:
    return s3.url()


@pytest.fixture
async def blobs(url: str) -> AsyncIterator[Blobs]:
    async with opened(url) as found:
        yield found


@pytest.fixture
def mortal() -> Iterator[S3Server]:
    """A server of this test's own."""
    with s3_server() as server:
        yield server


@pytest.fixture
def upload(tmp_path: Path) -> Callable[[int], Path]:
    """A file of that size, the same bytes each time."""

    def write(size: int) -> Path:
        path = tmp_path / f"upload-{size}"
        path.write_bytes(random.Random(size).randbytes(size))
        return path

    return write


@asynccontextmanager
async def opened(url: str, **how: Any) -> AsyncIterator[Blobs]:
    found = S3(url, **how)
    await found.open()
    try:
        yield found
    finally:
        await found.close()


@asynccontextmanager
async def writes_may_be_lost() -> AsyncIterator[None]:
    """aiohttp's own task that writes a request may meet a closed connection, and nobody there looks at its error."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def passed_over(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), ClientConnectionResetError):
            (before or type(loop).default_exception_handler)(loop, context)

    loop.set_exception_handler(passed_over)
    try:
        yield
    finally:
        gc.collect()  # what is lost is told when its task goes
        loop.set_exception_handler(before)


@asynccontextmanager
async def beside(url: str) -> AsyncIterator[tuple[Any, dict[str, str]]]:
    """Another program with good keys to the same bucket, and the place in it."""
    place, _, options = url.removeprefix("s3://").partition("?")
    bucket, _, prefix = place.partition("/")
    endpoint = options.partition("endpoint=")[2].partition("&")[0]
    async with session().create_client("s3", endpoint_url=endpoint, region_name="eu-central-1") as client:
        yield client, {"Bucket": bucket, "Prefix": prefix}


@cache
def session() -> Any:
    """One for all tests: it keeps what it has read of the library's large description files."""
    made = get_session()
    made.set_credentials(*KEYS.values())
    return made


async def unfinished(url: str) -> list[str]:
    async with beside(url) as (client, place):
        told = await client.list_multipart_uploads(**place)
    return [each["Key"] for each in told.get("Uploads", ())]


def fresh() -> str:
    return f"documents/{ids.new('doc')}"


async def whole(blobs: Blobs, key: str) -> bytes:
    return b"".join([piece async for piece in blobs.get(key)])


async def listed(blobs: Blobs) -> dict[str, int]:
    return {kept.key: kept.size async for kept in blobs.list(until=later(now(), 60))}


# --- parts


@pytest.mark.parametrize("size", [PART, PART + 1, LARGE])
async def test_what_is_larger_than_a_part_comes_back_as_it_was(
    blobs: Blobs, url: str, upload: Callable[[int], Path], size: int
) -> None:
    key, path = fresh(), upload(size)
    await blobs.put(key, path)
    assert await whole(blobs, key) == path.read_bytes()
    assert await listed(blobs) == {key: size}
    assert await unfinished(url) == []
    async with beside(url) as (client, place):
        told = await client.head_object(Bucket=BUCKET, Key=f"{place['Prefix']}/{key}", ChecksumMode="ENABLED")
    assert ("-" in told["ETag"]) is (size > PART), "only what is larger is sent in parts"
    assert told["ChecksumSHA256"]


async def test_a_large_upload_and_its_download_take_little_memory(blobs: Blobs, upload: Callable[[int], Path]) -> None:
    key, path = fresh(), upload(5 * PART)
    await blobs.put(fresh(), upload(1))  # whatever is made once is made
    tracemalloc.start()
    try:
        await blobs.put(key, path)
        size = sum([len(piece) async for piece in blobs.get(key)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 5 * PART
    assert peak < PART, "less than one part of it"


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.05, 0.1])
async def test_who_leaves_in_the_middle_leaves_no_part_behind(
    blobs: Blobs, url: str, upload: Callable[[int], Path], wait: float
) -> None:
    key, path = fresh(), upload(LARGE)
    task = asyncio.create_task(blobs.put(key, path))
    await asyncio.sleep(wait)
    task.cancel()
    [came] = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(came, asyncio.CancelledError)
    assert await unfinished(url) == []
    assert await listed(blobs) in ({}, {key: LARGE})


async def test_a_file_that_ends_early_fails_and_leaves_no_part_behind(
    blobs: Blobs, url: str, upload: Callable[[int], Path]
) -> None:
    path = upload(LARGE)
    task = asyncio.create_task(blobs.put(fresh(), path))
    await asyncio.sleep(0)
    with path.open("r+b") as file:
        file.truncate(PART + 1)
    with pytest.raises(Unavailable):
        await task
    assert await unfinished(url) == []
    assert await listed(blobs) == {}


async def test_two_hundred_uploads_at_once_all_arrive(blobs: Blobs, upload: Callable[[int], Path]) -> None:
    wanted = {fresh(): LARGE if at % 50 == 0 else 20_000 + at for at in range(200)}
    async with asyncio.timeout(60):
        await asyncio.gather(*(blobs.put(key, upload(size)) for key, size in wanted.items()))
        assert await listed(blobs) == wanted
        for key in list(wanted)[::20]:
            assert await whole(blobs, key) == random.Random(wanted[key]).randbytes(wanted[key])


async def test_downloads_that_stand_still_leave_room_for_the_rest(url: str, upload: Callable[[int], Path]) -> None:
    key = fresh()
    async with opened(url, patience=2.0) as blobs, AsyncExitStack() as held:
        await blobs.put(key, upload(1_000_000))
        for _ in range(READ):
            await anext(await held.enter_async_context(aclosing(blobs.get(key))))
        await blobs.ready()
        await blobs.put(fresh(), upload(1))
        with pytest.raises(Unavailable, match="too many"):
            await anext(blobs.get(key))
        await held.aclose()
        assert await whole(blobs, key) == upload(1_000_000).read_bytes()


# --- a server that is not as it should be


async def test_a_server_killed_in_an_upload_or_a_download_is_told_and_used_again_once_it_is_back(
    mortal: S3Server, upload: Callable[[int], Path]
) -> None:
    url, kept, lost, path = mortal.url(), fresh(), fresh(), upload(3 * PART)
    async with writes_may_be_lost(), opened(url, patience=2.0) as blobs, asyncio.timeout(60):
        await blobs.put(kept, path)
        pieces = blobs.get(kept)
        got = len(await anext(pieces))
        putting = asyncio.create_task(blobs.put(lost, path))
        while not await unfinished(url):
            await asyncio.sleep(0)
        mortal.stop(signal.SIGKILL)
        with pytest.raises(Unavailable):
            while True:  # what came before the kill may still be read
                got += len(await anext(pieces))
        assert got < 3 * PART
        with pytest.raises(Unavailable) as refused:
            await putting
        assert refused.value.retry_after
        asked = (blobs.ready(), blobs.remove(kept), anext(blobs.get(kept)), listed(blobs))
        came = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in came] == [Unavailable] * 4
        mortal.start()
        await blobs.ready()
        assert await whole(blobs, kept) == path.read_bytes()
        with pytest.raises(NotFound):
            await whole(blobs, lost)
        assert await unfinished(url), "the server died before it could be told"
        assert [each async for each in blobs.list(until=later(now(), -30))] == []
        assert await unfinished(url), "they are too young"
        assert await listed(blobs) == {kept: 3 * PART}
        assert await unfinished(url) == []
        await blobs.put(lost, path)
        assert await whole(blobs, lost) == path.read_bytes()


async def test_a_frozen_server_is_given_up_and_used_again_once_it_goes_on(
    s3: S3Server, upload: Callable[[int], Path]
) -> None:
    key = fresh()
    async with writes_may_be_lost(), opened(s3.url(), patience=1.0) as blobs:
        await blobs.put(key, upload(1))
        s3.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            asked = (anext(blobs.get(key)), blobs.put(fresh(), upload(LARGE)), blobs.put(fresh(), upload(1)))
            came = await asyncio.gather(*asked, blobs.ready(), return_exceptions=True)
            assert [type(each) for each in came] == [Unavailable] * 4
            assert time.monotonic() - began < 15
        finally:
            s3.signal(signal.SIGCONT)
        await blobs.put(key, upload(LARGE))
        assert await whole(blobs, key) == upload(LARGE).read_bytes()


async def test_callers_do_not_hear_where_files_are() -> None:
    asked = "http://10.0.0.5:9000/bucket/loquent/documents/doc_1a"
    for error in (
        EndpointConnectionError(endpoint_url=asked),
        ReadTimeoutError(endpoint_url=asked),
        ConnectionClosedError(endpoint_url=asked),
        OSError(f"cannot reach '{asked}' now"),
    ):
        told = s3_wire.ours(error).message
        assert told.startswith("the place for uploaded files is away (")
        assert not re.search(r"10\.0|bucket|doc_|//", told)


async def test_a_server_that_is_away_at_the_start_is_told_and_waited_for(
    mortal: S3Server, upload: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    mortal.stop()
    began = time.monotonic()
    async with opened(mortal.url(), patience=1.0) as blobs:
        assert time.monotonic() - began < 10
        assert [each.getMessage() for each in caplog.records if each.name == SEEN.name] == ["files cannot be kept yet"]
        with pytest.raises(Unavailable):
            await blobs.ready()
        mortal.start()
        key = fresh()
        await blobs.put(key, upload(10))
        assert await listed(blobs) == {key: 10}


@pytest.mark.parametrize("back", [False, True], ids=["up", "down"])
async def test_bytes_that_change_on_their_way_are_noticed(
    s3: S3Server, upload: Callable[[int], Path], back: bool
) -> None:
    key, path = fresh(), upload(100_000)
    async with through(s3) as line, opened(s3.url().replace(s3.endpoint, line.endpoint)) as blobs:
        await blobs.put(key, path)
        assert await whole(blobs, key) == path.read_bytes()
        line.spoil_at, line.back = 50_000, back
        with pytest.raises(Unavailable):
            await (whole(blobs, key) if back else blobs.put(fresh(), path))
        assert not line.spoil_at, "it was spoilt"
        assert await listed(blobs) == {key: 100_000}


async def test_four_parts_of_an_upload_are_under_way_at_once_and_no_more(
    s3: S3Server, upload: Callable[[int], Path]
) -> None:
    async with through(s3) as line, opened(s3.url().replace(s3.endpoint, line.endpoint)) as blobs:
        await blobs.put(fresh(), upload(7 * PART))
        assert line.most == 4


class Line:
    """A line to a server. After so many more bytes, on their way to it or ``back``, one is turned around."""

    def __init__(self) -> None:
        self.endpoint, self.back = "", False
        self.spoil_at = self.open = self.most = 0

    def carried(self, some: bytes, *, back: bool) -> bytes:
        """What arrives of some bytes."""
        at = self.spoil_at - 1
        if at < 0 or back is not self.back:
            return some
        self.spoil_at = max(0, self.spoil_at - len(some))
        return some if self.spoil_at else some[:at] + bytes([some[at] ^ 255]) + some[at + 1 :]


@asynccontextmanager
async def through(server: S3Server) -> AsyncIterator[Line]:
    """A line to it."""
    line = Line()

    async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter, *, back: bool) -> None:
        while some := await source.read(65_536):
            to.write(line.carried(some, back=back))
            await to.drain()
        to.close()

    async def serve(caller: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        line.open += 1
        line.most = max(line.most, line.open)
        try:
            asked, asks = await asyncio.open_connection("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
            both = carry(caller, asks, back=False), carry(asked, answers, back=True)
            await asyncio.gather(*both, return_exceptions=True)
        finally:
            line.open -= 1

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        line.endpoint = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield line


# --- keys, rights, settings


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY is wrong"),
        ({**KEYS, "AWS_ACCESS_KEY_ID": "AKIANOBODY"}, "AWS_ACCESS_KEY_ID"),
        ({}, "locate credentials"),
        ({"AWS_PROFILE": "nobody"}, "nobody"),
    ],
)
async def test_keys_that_do_not_open_the_bucket_stop_the_start_with_the_reason(
    url: str, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], why: str
) -> None:
    with_keys(monkeypatch, keys)
    with pytest.raises(Misconfigured, match=rf"^LOQUENT_BLOBS names the bucket '{BUCKET}': .*{why}") as refused:
        await connect(url).open()
    assert "wrong" not in refused.value.message.replace("is wrong", "")


async def test_a_bucket_that_is_not_there_stops_the_start(s3: S3Server) -> None:
    with pytest.raises(Misconfigured, match=r"'nowhere': .*there is no such bucket"):
        await connect(s3.url("nowhere")).open()


async def test_a_bucket_that_goes_while_it_is_used_is_unavailable(s3: S3Server, upload: Callable[[int], Path]) -> None:
    url = s3.url("goes")
    async with beside(url) as (client, place):
        await client.create_bucket(Bucket=place["Bucket"])
    async with opened(url) as blobs, beside(url) as (client, place):
        await client.delete_bucket(Bucket=place["Bucket"])
        for ask in (blobs.ready(), blobs.put(fresh(), upload(1)), anext(blobs.get(fresh())), listed(blobs)):
            with pytest.raises(Unavailable, match="no such bucket"):
                await ask


@pytest.mark.parametrize(
    "url",
    [
        *("s3:", "s3://", "s3:///x", "s3://a", "s3://bucket?x=1", "s3://me:secret@bucket", "s3://bucket/../x"),
        *("s3://bucket/a b", "s3://bucket#x", "s3://bucket?sse=none", "s3://bucket?endpoint=ftp://x"),
        *("s3://bucket?endpoint=http://me:secret@x", "s3://bucket?region=", "s3://bucket?sse_key=x"),
    ],
)
def test_a_url_that_cannot_be_read_stops_the_start_and_shows_no_secret(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"^LOQUENT_BLOBS .* it takes s3://BUCKET") as refused:
        connect(url)
    assert "secret" not in refused.value.message


async def test_it_is_closed_more_than_once_and_says_so_when_asked(url: str) -> None:
    blobs = connect(url)
    await blobs.close()
    await blobs.open()
    await blobs.open()
    await blobs.close()
    await blobs.close()
    with pytest.raises(Unavailable, match="closed"):
        await blobs.ready()


@pytest.mark.parametrize("size", [10, PART + 1])
async def test_what_is_put_is_encrypted_by_the_server_where_that_is_set(
    s3: S3Server, upload: Callable[[int], Path], size: int
) -> None:
    async def encryption(url: str) -> str | None:
        async with opened(url) as blobs, beside(url) as (client, place):
            key = fresh()
            await blobs.put(key, upload(size))
            assert await whole(blobs, key) == upload(size).read_bytes()
            told = await client.head_object(Bucket=BUCKET, Key=f"{place['Prefix']}/{key}")
        found: str | None = told.get("ServerSideEncryption")
        return found

    assert await encryption(s3.url(sse="AES256")) == "AES256"
    assert await encryption(s3.url()) is None


def test_a_key_for_the_encryption_goes_with_what_is_put() -> None:
    said = s3_wire.place("s3://bucket/deep/er?sse=aws:kms&sse_key=arn:aws:kms:eu-central-1:1:key/x")
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "arn:aws:kms:eu-central-1:1:key/x"}
    assert said.kind == {"ContentType": "application/octet-stream", **encryption}
    assert (said.bucket, said.prefix) == ("bucket", "deep/er/")


# --- what is not ours


async def test_what_somebody_else_keeps_in_the_bucket_is_neither_listed_nor_given_up(
    blobs: Blobs, url: str, upload: Callable[[int], Path]
) -> None:
    key = fresh()
    await blobs.put(key, upload(3))
    async with beside(url) as (client, place):
        own = place["Prefix"]
        strangers = [f"{own}/README.md", f"{own}/documents/a/b", f"{own}elsewhere/{fresh()}", f"other{own}/{fresh()}"]
        for name in strangers:
            await client.put_object(Bucket=BUCKET, Key=name, Body=b"mine")
            await client.create_multipart_upload(Bucket=BUCKET, Key=f"{name}.part")
        await client.create_multipart_upload(Bucket=BUCKET, Key=f"{own}/{fresh()}")
        await client.create_multipart_upload(Bucket=BUCKET, Key=f"{own}/{PROBE}")
    assert await listed(blobs) == {key: 3}
    left = [name.removeprefix(own) for name in await unfinished(url)]
    assert len(left) == 3 and all(name.endswith(".part") for name in left)


async def test_a_list_goes_on_over_more_than_one_answer(blobs: Blobs, upload: Callable[[int], Path]) -> None:
    wanted = {fresh() for _ in range(520)}
    for some in range(0, 520, 40):
        await asyncio.gather(*(blobs.put(key, upload(1)) for key in sorted(wanted)[some : some + 40]))
    assert set(await listed(blobs)) == wanted


# --- links


async def test_a_link_downloads_without_a_key_as_an_attachment_that_no_browser_opens(
    blobs: Blobs, upload: Callable[[int], Path]
) -> None:
    key = fresh()
    await blobs.put(key, upload(1_000))
    said = "attachment; filename=\"a_b.html\"; filename*=UTF-8''a%22b.html"
    link = await blobs.link(key, said)
    assert link is not None
    async with httpx2.AsyncClient() as client:
        answer = await client.get(link)
        assert (answer.status_code, answer.content) == (200, upload(1_000).read_bytes())
        assert answer.headers["content-disposition"] == said
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "no-store"
        for other in (link.replace("attachment", "inline"), link.replace(key, fresh()), link.partition("?")[0]):
            assert (await client.get(other)).status_code == 403
        assert (await client.put(link, content=b"x")).status_code == 403
        with time_machine.travel(now() / SECOND - 301, tick=False):
            old = await blobs.link(key, said)
        assert (await client.get(str(old))).status_code == 403
        with time_machine.travel(now() / SECOND - 240, tick=False):
            young = await blobs.link(key, said)
        assert (await client.get(str(young))).status_code == 200
