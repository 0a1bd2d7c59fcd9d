"""What the S3 library is given and what comes back: a URL's options, one part of a file, its errors as ours."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

from loquent.domain.errors import LoquentError, Misconfigured, NotFound, Unavailable

CONNECTIONS = 192
ADDRESS = re.compile(r"""[:\s]*["']?\w+://[^\s"']*["']?""")
RETRY = 5  # seconds after which a server that is away may be there again
BLOCK = 1 << 20  # bytes that are hashed at a time
FAULTS = (ClientError, BotoCoreError, aiohttp.ClientError, OSError)  # a timeout is an OSError, too
PASSING = (408, 429)  # statuses below 500 that are no refusal
REASONS = {
    "404": "there is no such bucket",
    "NoSuchBucket": "there is no such bucket",
    "403": "the keys are not good, or have no right to it",
    "InvalidAccessKeyId": "it does not know the key in AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the key in AWS_SECRET_ACCESS_KEY is wrong",
    "AccessDenied": "the keys have no right to it",
}
TAKES = (
    "it takes s3://BUCKET/PREFIX?endpoint=URL&region=NAME&sse=AES256, all but the bucket optional; or sse=aws:kms, "
    "where sse_key=ID may name a key"
)


class Refused(Unavailable):
    """The server, or the library before it asks, says no, and will until somebody changes a setting."""


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and where in it."""

    bucket: str
    prefix: str = ""  # of every key; ends with a slash, or is empty
    options: dict[str, Any] = field(default_factory=dict)  # of the client
    kind: dict[str, Any] = field(default_factory=dict)  # of what is put there


def place(url: str) -> Place:
    """What the URL names. Raises Misconfigured."""
    read = urlsplit(url)
    query = dict(parse_qsl(read.query, keep_blank_values=True))
    endpoint, sse, sse_key = query.get("endpoint"), query.get("sse"), query.get("sse_key")
    is_good = (
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", read.netloc)
        and re.fullmatch(r"(/[A-Za-z0-9_.=-]+)*/?", read.path)
        and not set(read.path.split("/")) & {".", ".."}
        and not query.keys() - {"endpoint", "region", "sse", "sse_key"}
        and (endpoint is None or re.fullmatch(r"https?://[^/@\s]+/?", endpoint))
        and query.get("region", "x")
        and sse in (None, "AES256", "aws:kms")
        and (sse_key is None or (sse_key and sse == "aws:kms"))
        and not read.fragment
    )
    if not is_good:
        raise Misconfigured(f"LOQUENT_BLOBS holds an s3: URL that cannot be read; {TAKES}")
    own = {"addressing_style": "path"} if endpoint else {}  # a server of one's own seldom has a name for each bucket
    config = AioConfig(
        signature_version="s3v4",
        connect_timeout=3,
        read_timeout=15,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "max_attempts": 3},
        # A part is hashed once, in a thread; that hash is signed in place of another one made in the event loop.
        s3={"payload_signing_enabled": False, **own},
    )
    path = read.path.strip("/")
    return Place(
        read.netloc,
        f"{path}/" if path else "",
        {"config": config, "endpoint_url": endpoint, "region_name": query.get("region")},
        {
            "ContentType": "application/octet-stream",
            **({"ServerSideEncryption": sse} if sse else {}),
            **({"SSEKMSKeyId": sse_key} if sse_key else {}),
        },
    )


def client(place: Place) -> Any:
    """A client, to be entered. Raises Refused."""
    session = get_session()
    session.register_component("data_loader", _descriptions())
    return session.create_client("s3", **place.options)


@cache
def _descriptions() -> Any:
    """One for the process: it keeps what it has read of the library's large description files."""
    return get_session().get_component("data_loader")


class Part(io.RawIOBase):
    """Some bytes of an open file, to be sent from any thread, again where a try failed; never in memory as a whole."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def digest(self) -> str:
        """Its SHA-256, as S3 writes it."""
        made, at = hashlib.sha256(), 0
        while block := self._bytes(at, BLOCK):
            made.update(block)
            at += len(block)
        return base64.b64encode(made.digest()).decode("ascii")

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See RawIOBase."""
        found = self._bytes(self._at, len(buffer))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See IOBase."""
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        """See IOBase."""
        return self._at

    def _bytes(self, at: int, most: int) -> bytes:
        wanted = max(0, min(most, self._size - at))
        found = os.pread(self._file.fileno(), wanted, self._start + at)
        if wanted and not found:
            raise OSError(errno.EIO, "it has become shorter")
        return found


def ours(error: Exception) -> LoquentError:
    """What an error of the library means."""
    if isinstance(error, ClientError):
        told: Any = error.response
        code, status = str(told["Error"]["Code"]), int(told["ResponseMetadata"]["HTTPStatusCode"])
        if code == "NoSuchKey":
            return NotFound("there is no such file")
        why = REASONS.get(code) or f"{code}: {told['Error'].get('Message', '')}"[:200]
        kind = Refused if 300 <= status < 500 and status not in PASSING else Unavailable
        return kind(f"the bucket for uploaded files cannot be used ({why})", retry_after=RETRY)
    if isinstance(error, TimeoutError):
        return Unavailable("the place for uploaded files is too slow now", retry_after=RETRY)
    if isinstance(error, HTTPClientError | NoConnection | OSError | aiohttp.ClientError):
        return Unavailable(f"the place for uploaded files is away ({_brief(error)})", retry_after=RETRY)
    return Refused(f"the place for uploaded files cannot be used ({_brief(error)})", retry_after=RETRY)


def _brief(error: Exception) -> str:
    """What callers may hear of it: no address of ours, no bucket, no key."""
    return ADDRESS.sub("", str(error).partition("\n")[0])[:200] or type(error).__name__
