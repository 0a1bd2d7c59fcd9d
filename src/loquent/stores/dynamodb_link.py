"""The way to one DynamoDB table: where it is by its URL, the client, and its errors as ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cache
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from loquent.domain.errors import Invalid, Misconfigured, Unavailable

CONFIG = AioConfig(
    connect_timeout=5, read_timeout=10, max_pool_connections=24, retries={"mode": "standard", "max_attempts": 3}
)


class Link:
    """A client while it is open; ``table`` is the one that it is for."""

    def __init__(self, url: str) -> None:
        self.table, self._options = _parts(url)
        self._client: Any = None
        self._stack = AsyncExitStack()
        self._under_way = 0
        self._idle = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    async def open(self) -> None:
        """Make the client; nothing is asked yet. Raises Misconfigured."""
        try:
            client = _session().create_client("dynamodb", config=CONFIG, **self._options)
            self._client = await self._stack.enter_async_context(client)
        except (NoRegionError, NoCredentialsError) as error:
            raise Misconfigured(f"LOQUENT_STORE names DynamoDB, but: {error}") from error

    async def close(self) -> None:
        """Wait for what is under way, and let go."""
        client, self._client = self._client, None
        if client is not None:
            if self._under_way:
                self._idle.clear()
                await self._idle.wait()
            await self._stack.aclose()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """For a look where it is not open; the open one where it is."""
        if self.is_open:
            yield
            return
        await self.open()
        try:
            yield
        finally:
            await self.close()

    async def ask(self, operation: str, **request: Any) -> Any:
        """One call; its errors as ours."""
        client = self._client
        if client is None:
            raise Unavailable("the store is closed")
        self._under_way += 1
        try:
            with told():
                return await getattr(client, operation)(**request)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()


class Missing(Unavailable):
    """There is no such table."""


class Cancelled(Exception):
    """A transaction did not happen; a code for each of its items says why."""

    def __init__(self, codes: list[str]) -> None:
        self.codes = codes


@contextmanager
def told() -> Iterator[None]:
    """The SDK's errors as ours."""
    try:
        yield
    except ClientError as error:
        _translate(error)
    except NoCredentialsError as error:
        raise Misconfigured(f"LOQUENT_STORE names DynamoDB, but: {error}") from error
    except (BotoCoreError, OSError) as error:
        raise Unavailable(f"DynamoDB cannot be reached now: {error}", retry_after=1) from error


def _translate(error: ClientError) -> NoReturn:
    said: Any = error.response
    code = said["Error"]["Code"]
    if code == "TransactionCanceledException":
        raise Cancelled([reason.get("Code", "None") for reason in said.get("CancellationReasons", [])]) from None
    if code == "ResourceNotFoundException":
        raise Missing("the DynamoDB table is not there") from error
    if code in ("ValidationException", "ItemCollectionSizeLimitExceededException"):
        raise Invalid(f"DynamoDB does not take this: {said['Error'].get('Message')}") from error
    raise Unavailable(f"DynamoDB cannot answer now: {code}", retry_after=1) from error


@cache
def _session() -> Any:
    """One for the process: it keeps what it has read of the SDK's large description files."""
    return get_session()


def _parts(url: str) -> tuple[str, dict[str, Any]]:
    """The table and the client's options that a URL names; Misconfigured where it cannot be read."""
    read = urlsplit(url)
    query = dict(parse_qsl(read.query))
    host, table = (read.netloc, read.path.strip("/")) if read.path.strip("/") else ("", read.netloc)
    if not table or "/" in table or query.keys() - {"region"} or "@" in host:
        raise Misconfigured(
            "LOQUENT_STORE holds a dynamodb: URL that cannot be read; it takes dynamodb://TABLE?region=NAME, "
            "or dynamodb://HOST:PORT/TABLE for an emulator"
        )
    options: dict[str, Any] = {"region_name": query.get("region")}
    if host:
        local = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        options |= {"endpoint_url": f"http://{host}", "region_name": query.get("region", "us-east-1"), **local}
    return table, options
