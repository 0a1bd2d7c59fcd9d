"""What only DynamoDB can do wrong: tables of another layout, indexes that are behind, parts that nobody names."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.session import get_session

from loquent import stores
from loquent.domain.clock import Moment
from loquent.domain.errors import Misconfigured, Taken, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import BACKGROUND, Content, Generation, begin
from loquent.domain.principals import Principal
from loquent.ports.store import Add, Remove, Replace
from loquent.stores import Keeper

pytestmark = pytest.mark.anyio

OWN = {"tenant": "t", "owner": "a"}


def generation() -> Generation:
    who = Principal("t", "a", "a")
    return begin(
        who, kind="text", surface="api", mode=BACKGROUND, model="m", parameters={}, text="hello", due_at=Moment(1_000)
    )


@pytest.fixture
def url(emulator: str) -> str:
    return f"dynamodb://{emulator}/loquent-{uuid.uuid4().hex}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Keeper]:
    store = stores.connect(url, data_dir=Path())
    await store.upgrade()
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def beside(url: str) -> AsyncIterator[tuple[Any, str]]:
    """Another program with the same table."""
    host, _, table = url.removeprefix("dynamodb://").partition("/")
    local = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}
    async with get_session().create_client("dynamodb", endpoint_url=f"http://{host}", **local) as client:
        yield client, table


async def test_a_table_that_is_not_there_is_refused_until_it_is_made(url: str) -> None:
    store = stores.connect(url, data_dir=Path())
    with pytest.raises(Misconfigured, match="store upgrade"):
        await store.open()
    checked = await store.check()
    assert checked.current is None and checked.findings
    checked = await stores.upgrade(url, Path())
    assert (checked.current, checked.findings) == (checked.head, ())
    assert await stores.upgrade(url, Path()) == checked


async def test_a_table_of_another_layout_is_refused(url: str) -> None:
    await stores.upgrade(url, Path())
    async with beside(url) as (client, table):
        await client.put_item(TableName=table, Item={"pk": {"S": "schema"}, "layout": {"S": "another"}})
    with pytest.raises(Misconfigured, match="layout another"):
        await stores.connect(url, data_dir=Path()).open()
    assert (await stores.check(url, Path())).findings


async def test_what_an_index_still_says_of_a_changed_record_is_left_out(url: str) -> None:
    async with opened(url) as store, beside(url) as (client, table):
        records = [generation() for _ in range(5)]
        for record in records:
            await store.write(Add(record))
        late = records[2].id
        await client.update_item(  # the record has moved, its places in the indexes have not
            TableName=table,
            Key={"pk": {"S": f"generations#{late}"}},
            UpdateExpression="SET #owner = :b, due_at = :due",
            ExpressionAttributeNames={"#owner": "owner"},
            ExpressionAttributeValues={":b": {"S": "b"}, ":due": {"N": "9999"}},
        )
        page = await store.page(Generation, "newest", OWN, limit=4)
        assert [one.id for one in page.items] == [one.id for one in records[::-1] if one.id != late]
        assert not page.more
        page = await store.page(Generation, "newest", OWN, limit=3)
        assert len(page.items) == 3 and page.more
        put, taken = {"due_at": Moment(5_000)}, []
        while some := await store.take(Generation, "due", {}, until=Moment(2_000), n=2, put=put, add={}):
            taken += [one.id for one in some]
        assert sorted(taken) == [one.id for one in records if one.id != late]


async def test_parts_of_long_texts_go_when_nobody_names_them(url: str) -> None:
    async with opened(url) as store, beside(url) as (client, table):

        async def parts() -> int:
            told = await client.scan(TableName=table, ProjectionExpression="pk")
            return sum(item["pk"]["S"].startswith("part!") for item in told["Items"])

        text = random.Random(3).randbytes(1_000_000).hex()
        first = Content("gen_1", 0, "t", "a", {}, text)
        await store.write(Add(first))
        once = await parts()
        assert once >= 2
        with pytest.raises(Taken):
            await store.write(Add(first))
        assert await parts() == once
        [first] = await store.get(Content, "gen_1")
        second = evolve(first, output=text[::-1], version=2)
        await store.write(Replace(first, second))
        assert await parts() == once
        assert await store.get(Content, "gen_1") == [second]
        await store.write(Remove(second))
        assert await parts() == 0


async def test_an_endpoint_that_is_away_is_unavailable(free_port: int) -> None:
    store = stores.connect(f"dynamodb://127.0.0.1:{free_port}/loquent", data_dir=Path())
    with pytest.raises(Unavailable):
        await store.open()
    with pytest.raises(Unavailable):
        await store.get(Content, "gen_1")


@pytest.mark.parametrize("url", ["dynamodb:", "dynamodb://", "dynamodb://host:1/a/b", "dynamodb://t?colour=1"])
async def test_a_url_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="LOQUENT_STORE"):
        stores.connect(url, data_dir=Path())
