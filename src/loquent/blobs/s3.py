"""Blobs in a bucket, at AWS or on any server that speaks S3: streamed both ways, large ones sent in parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from loquent.blobs import KEY, checked, s3_wire
from loquent.blobs.s3_wire import FAULTS, Part, Refused
from loquent.domain import failpoints
from loquent.domain.clock import SECOND, Moment
from loquent.domain.errors import LoquentError, Misconfigured, Unavailable
from loquent.domain.log import Log
from loquent.ports.blobs import Kept

log = Log("loquent.blobs")
T = TypeVar("T")
PIECE = 65_536  # bytes of a download that are in memory at a time, or twice as many
PART = 8 << 20  # bytes; what is not larger is sent at once
PARTS = 4  # of one upload that are sent at the same time
SENT = 16  # requests with a body at the same time, of all uploads
READ = 128  # downloads at the same time; beside these and the former there are connections left for the rest
OPENING, ASKING, SENDING = 5.0, 10.0, 60.0  # seconds: at the start, for a request, for one with a body
LEAVING = 5.0  # seconds that who is cancelled waits for what has been sent already
LINK = 300  # seconds for which a link is good
LISTED = 500  # keys in one answer: they are read in the event loop
PROBE = ".probe"  # the key of an upload that is begun at the start, and given up


class S3:
    """``s3://bucket/prefix?endpoint=https://…&region=…&sse=AES256``; region and keys as the AWS library finds them.

    What has parts is seen only when all of them are there, and every body goes with its SHA-256, which the server
    checks. Parts that a crash leaves have no key: ``list`` removes those that are as old as the blobs it is asked for.
    A ``put`` whose last answer is lost may have happened all the same: such a blob has no row.
    """

    def __init__(self, url: str, *, patience: float = SENDING) -> None:
        """``patience``: seconds that any request may take. Raises Misconfigured where the URL cannot be read."""
        self._place = s3_wire.place(url)
        self._sending, self._asking = patience, min(ASKING, patience)
        self._client: Any = None
        self._stack = AsyncExitStack()
        self._sent, self._read = asyncio.Semaphore(SENT), asyncio.Semaphore(READ)

    async def open(self) -> None:
        """See the port. A server that is away now is no reason not to start; a bucket that refuses an upload is."""
        if self._client is not None:
            return
        try:
            try:
                self._client = await self._stack.enter_async_context(s3_wire.client(self._place))
            except FAULTS as error:
                raise s3_wire.ours(error) from error
            async with asyncio.timeout(min(OPENING, self._asking)):
                probe = self._place.prefix + PROBE
                await self._abandon(probe, await self._begin(probe))
        except Refused as error:
            await self.close()
            raise Misconfigured(f"LOQUENT_BLOBS names the bucket {self._place.bucket!r}: {error.message}") from error
        except (Unavailable, TimeoutError) as error:
            log.warning("files cannot be kept yet", why=str(error) or "the place for uploaded files is too slow now")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See the port."""
        self._client = None
        await self._stack.aclose()

    async def ready(self) -> None:
        """See the port: the bucket is there and knows us. That it takes uploads was seen at the start."""
        await self._ask("head_bucket", seconds=2)

    async def put(self, key: str, path: Path) -> None:
        """See the port."""
        name = self._name(key)
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > PART:
                    parts = [Part(file, at, min(PART, size - at)) for at in range(0, size, PART)]
                    await self._put_parts(name, parts)
                else:
                    await self._send("put_object", Part(file, 0, size), Key=name, **self._place.kind)
        except OSError as error:  # of the file; those of the network are ours already
            raise Unavailable(f"an uploaded file cannot be read ({error.strerror})") from error

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """See the port."""
        name = self._name(key)
        async with _turn(self._read, self._asking):
            told = await self._ask("get_object", Key=name)
            async with told["Body"] as body:  # leaving it early closes its connection
                while piece := await _translated(body.read(PIECE)):
                    yield piece

    async def remove(self, key: str) -> None:
        """See the port."""
        await self._ask("delete_object", Key=self._name(key))

    def address(self, key: str) -> str:
        """See the port."""
        return f"s3://{self._place.bucket}/{self._name(key)}"

    async def link(self, key: str, disposition: str) -> str | None:
        """See the port."""
        wanted = {
            "Bucket": self._place.bucket,
            "Key": self._name(key),
            "ResponseContentDisposition": disposition,
            "ResponseContentType": "application/octet-stream",  # whatever is in it, no browser opens it
            "ResponseCacheControl": "no-store",
        }
        made = self._opened().generate_presigned_url("get_object", Params=wanted, ExpiresIn=LINK)
        return str(await _translated(made))

    async def list(self, *, until: Moment) -> AsyncIterator[Kept]:
        """See the port."""
        async for each in self._pages("list_multipart_uploads", "Uploads", ("KeyMarker", "UploadIdMarker")):
            name = each["Key"]
            if _moment(each["Initiated"]) <= until and (self._key(name) or name == self._place.prefix + PROBE):
                await self._abandon(name, each["UploadId"])
        async for each in self._pages("list_objects_v2", "Contents", ("ContinuationToken",), MaxKeys=LISTED):
            moment, key = _moment(each["LastModified"]), self._key(each["Key"])
            if key and moment <= until:
                yield Kept(key, each["Size"], moment)

    # --- sending

    async def _put_parts(self, name: str, parts: Sequence[Part]) -> None:
        begun = asyncio.create_task(self._begin(name))
        sent = [dict[str, Any]() for _ in parts]
        left = iter(range(len(parts)))

        async def send(upload: str) -> None:
            for at in left:
                sent[at] = await self._send_part(name, upload, at + 1, parts[at])

        try:
            upload = await _to_the_end(begun)
            async with asyncio.TaskGroup() as group:
                for _ in range(PARTS):
                    group.create_task(send(upload))
            failpoints.passing("mid-blob")
            whole: dict[str, Any] = {"Key": name, "UploadId": upload, "MultipartUpload": {"Parts": sent}}
            await _to_the_end(self._ask("complete_multipart_upload", seconds=self._sending, **whole))
        except BaseException as error:
            if begun.done() and not begun.cancelled() and begun.exception() is None:
                await self._abandon(name, begun.result())
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def _send_part(self, name: str, upload: str, number: int, part: Part) -> dict[str, Any]:
        told = await self._send("upload_part", part, Key=name, UploadId=upload, PartNumber=number)
        return {"PartNumber": number, **told}

    async def _send(self, operation: str, part: Part, **request: Any) -> dict[str, str]:
        """What identifies the body that was sent."""
        async with _turn(self._sent, self._sending):
            digest = await asyncio.to_thread(part.digest)
            request |= {"Body": part, "ChecksumSHA256": digest}
            told = await _to_the_end(self._ask(operation, seconds=self._sending, **request))
        return {"ETag": told["ETag"], "ChecksumSHA256": digest}

    async def _begin(self, name: str) -> str:
        told = await self._ask("create_multipart_upload", Key=name, ChecksumAlgorithm="SHA256", **self._place.kind)
        return str(told["UploadId"])

    async def _abandon(self, name: str, upload: str) -> None:
        """Give up what was begun, with its parts."""
        try:
            await _to_the_end(self._ask("abort_multipart_upload", Key=name, UploadId=upload))
        except LoquentError as error:
            log.warning("parts of a file are left for the sweep", why=error.message)

    # --- asking

    def _opened(self) -> Any:
        if self._client is None:
            raise Unavailable("the place for uploaded files is closed")
        return self._client

    async def _ask(self, operation: str, *, seconds: float | None = None, **request: Any) -> Any:
        asked = getattr(self._opened(), operation)
        return await _translated(asked(Bucket=self._place.bucket, **request), seconds or self._asking)

    async def _pages(
        self, operation: str, of: str, marks: tuple[str, ...], **more: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """What all answers have under that name; ``marks`` say where the next one goes on."""
        at: dict[str, Any] = {}
        while True:
            told = await self._ask(operation, Prefix=self._place.prefix, **at, **more)
            for each in told.get(of, ()):
                yield each
            if not told.get("IsTruncated"):
                return
            before, at = at, {mark: told.get(f"Next{mark}") for mark in marks}
            if at == before or None in at.values():
                raise Unavailable("the list of the bucket for uploaded files does not go on", retry_after=s3_wire.RETRY)

    def _name(self, key: str) -> str:
        return self._place.prefix + checked(key)

    def _key(self, name: str) -> str:
        """The key of what goes by that name; empty where it is somebody else's."""
        key = name.removeprefix(self._place.prefix)
        return key if KEY.fullmatch(key) else ""


async def _to_the_end(work: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
    """What it comes to. Who is cancelled waits a little: what has been sent may happen, and must not do so later."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait([task], timeout=LEAVING)
        finally:
            if not task.cancel() and not task.cancelled():
                task.exception()  # looked at: it is nobody's any more
        raise


async def _translated(work: Awaitable[T], seconds: float | None = None) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except FAULTS as error:
        raise s3_wire.ours(error) from error


@asynccontextmanager
async def _turn(line: asyncio.Semaphore, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            await line.acquire()
    except TimeoutError:
        raise Unavailable("too many files are on their way now", retry_after=s3_wire.RETRY) from None
    try:
        yield
    finally:
        line.release()


def _moment(said: datetime) -> Moment:
    return Moment(int(said.timestamp() * SECOND))
