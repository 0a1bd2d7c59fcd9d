"""The one DynamoDB table: how it is made, and the layout that it says it has."""

from __future__ import annotations

import asyncio

from loquent.domain.errors import Misconfigured
from loquent.stores import Checked
from loquent.stores import dynamodb_items as items
from loquent.stores.dynamodb_items import Item
from loquent.stores.dynamodb_link import Link, Missing

SCHEMA: Item = {"pk": {"S": "schema"}}
"""The item that holds the layout."""


async def check_layout(link: Link) -> None:
    """Raise Misconfigured where the table is not there, or not as this program wants it."""
    current, wanted = await _layout(link), items.layout()
    if current != wanted:
        raise Misconfigured(
            f"the DynamoDB table {link.table} has layout {current or 'none'}, this program wants "
            f"{wanted}: `loquent store upgrade` makes a new table, and none of an older layout"
        )


async def standing(link: Link) -> Checked:
    """The layout that there is; DynamoDB looks after its own soundness."""
    current = await _layout(link) if await _status(link) else None
    head = items.layout()
    said = () if current == head else (f"the table {link.table} has layout {current or 'none'}, not {head}",)
    return Checked(current, head, said)


async def make(link: Link) -> None:
    """Make the table where there is none, and return when it can be used."""
    if await _status(link) is None:
        await _create(link)
    while await _status(link) != "ACTIVE":  # noqa: ASYNC110  # there is no event: DynamoDB must be asked
        await asyncio.sleep(0.5)
    if await _layout(link) is None:
        laid = {**SCHEMA, "layout": {"S": items.layout()}}
        await link.ask("put_item", TableName=link.table, Item=laid)


async def _status(link: Link) -> str | None:
    try:
        told = await link.ask("describe_table", TableName=link.table)
    except Missing:
        return None
    return str(told["Table"]["TableStatus"])


async def _layout(link: Link) -> str | None:
    try:
        told = await link.ask("get_item", TableName=link.table, Key=SCHEMA, ConsistentRead=True)
    except Missing:
        return None
    return str(told["Item"]["layout"]["S"]) if "Item" in told else None


async def _create(link: Link) -> None:
    keys = [(f"order{at}p", f"order{at}s") for at in range(items.INDEXES)]
    names = ["pk", *(name for key in keys for name in key)]
    await link.ask(
        "create_table",
        TableName=link.table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": f"order{at}",
                "KeySchema": [
                    {"AttributeName": key[0], "KeyType": "HASH"},
                    {"AttributeName": key[1], "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
            for at, key in enumerate(keys)
        ],
    )
