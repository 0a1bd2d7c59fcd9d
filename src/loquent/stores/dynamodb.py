"""DynamoDB: one table for everything. Not ready for production: it is here to keep the seam honest.

It passes the contract on an emulator. Not shown on the real service: conflicts on a hot record, throttling, how far
the indexes lag. Known to be missing: parts of long texts that a crash leaves behind are not swept, a changed
declaration of orders or keys is refused and not migrated, and ``due`` is a single partition.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from loquent.domain.errors import LoquentError, Stale, Unavailable
from loquent.ports.store import COUNT_CAP, Change, Page, Position
from loquent.stores import Checked
from loquent.stores import dynamodb_items as items
from loquent.stores.dynamodb_changes import Part, transaction
from loquent.stores.dynamodb_items import HIGHEST, INLINE, LOWEST, PART, PLAIN, Item
from loquent.stores.dynamodb_link import Cancelled, Link
from loquent.stores.dynamodb_table import SCHEMA, check_layout, make, standing
from loquent.stores.rows import Row, Rows, Step, check_position, check_values, put_and_added, rows_of, steps

R = TypeVar("R")

GET = 100  # items that one BatchGetItem asks for, at most
WRITE = 10  # parts that are written or removed at once
SPARE = 32  # records that a take looks at beyond those it wants, so that takers at once can part
TRIES = 12  # of a transaction that met another one


class DynamoDB:
    """``dynamodb://table?region=eu-central-1``, or ``dynamodb://host:port/table`` for an emulator over HTTP.

    Each record is an item, each unique key another in the same transaction; every order is one of the generic
    indexes order0, order1, … that hold keys only, and what they name is read again consistently.
    """

    def __init__(self, url: str, data_dir: Path) -> None:
        self._link = Link(url)
        self._table = self._link.table
        self._ask = self._link.ask
        self._taking = asyncio.Lock()

    # --- opening, closing, looking

    async def open(self) -> None:
        """See Store; the table must be there: ``upgrade`` makes it."""
        if self._link.is_open:
            return
        await self._link.open()
        try:
            await check_layout(self._link)
        except BaseException:
            await self._link.close()
            raise

    async def close(self) -> None:
        """See Store."""
        await self._link.close()

    async def ready(self) -> None:
        """See Store."""
        try:
            async with asyncio.timeout(2):
                await self._ask("get_item", TableName=self._table, Key=SCHEMA)
        except TimeoutError:
            raise Unavailable("DynamoDB is too slow now", retry_after=1) from None

    async def upgrade(self) -> None:
        """Make the table where there is none."""
        async with self._link.opened():
            await make(self._link)

    async def check(self) -> Checked:
        """See ``standing``."""
        async with self._link.opened():
            return await standing(self._link)

    # --- reading

    async def get(self, kind: type[R], *ids: str) -> list[R]:
        """See Store."""
        check_values(*ids)
        rows = rows_of(kind)
        found = await self._rows(rows, ids)
        return [rows.record(found[id]) for id in ids if id in found]

    async def find(self, kind: type[R], key: str, at: Mapping[str, Any]) -> R | None:
        """See Store."""
        rows = rows_of(kind)
        values = rows.unique(key, at)
        if None in values:
            return None
        held = items.unique_key(rows, key, values)
        told = await self._ask("get_item", TableName=self._table, Key=held, ConsistentRead=True)
        if "Item" not in told:
            return None
        id = told["Item"]["id"]["S"]
        row = (await self._rows(rows, (id,))).get(id)
        if row is None or rows.reader(rows.spec.unique[key])(row) != values:
            return None  # it changed hands between the two reads
        return rows.record(row)

    async def page(
        self,
        kind: type[R],
        order: str,
        at: Mapping[str, Any],
        *,
        limit: int,
        after: Position | None = None,
        back: bool = False,
        until: Any = None,
    ) -> Page[R]:
        """See Store."""
        rows = rows_of(kind)
        declared, values = rows.within(order, at)
        check_position(after)
        check_values(until)
        upward = declared.desc == back
        edge = after and items.sort_key(declared, *after)
        low = edge if edge is not None and upward else LOWEST
        high = HIGHEST if until is None else items.sort_bound(declared, until)
        if edge is not None and not upward:
            high = min(high, edge)
        found = list[R]()
        if None not in values and low <= high:
            query = self._query(rows, order, values, low, high)
            listed = self._listed(rows, order, query, limit + 1, upward=upward, edge=edge)
            found = [rows.record(row) async for row in listed]
        more = len(found) > limit
        return Page(found[:limit][::-1] if back else found[:limit], more)

    async def count(self, kind: type[R], order: str, at: Mapping[str, Any], *, cap: int = COUNT_CAP) -> int:
        """See Store."""
        rows = rows_of(kind)
        _, values = rows.within(order, at)
        query = self._query(rows, order, values, LOWEST, HIGHEST)
        counted = 0
        while None not in values and counted < cap:
            told = await self._ask("query", **query, Select="COUNT", Limit=cap - counted)
            counted += told["Count"]
            if "LastEvaluatedKey" not in told:
                break
            query["ExclusiveStartKey"] = told["LastEvaluatedKey"]
        return min(counted, cap)

    def _query(self, rows: Rows[Any], order: str, values: Sequence[Any], low: str, high: str) -> dict[str, Any]:
        index = f"order{list(rows.spec.orders).index(order)}"
        return {
            "TableName": self._table,
            "IndexName": index,
            "KeyConditionExpression": f"{index}p = :within AND {index}s BETWEEN :low AND :high",
            "ExpressionAttributeValues": {
                ":within": {"S": items.partition(rows, order, values)},
                ":low": {"S": low},
                ":high": {"S": high},
            },
        }

    async def _listed(
        self, rows: Rows[Any], order: str, query: dict[str, Any], most: int, *, upward: bool, edge: str | None
    ) -> Any:
        """The first rows of a query, without those for which the index is behind."""
        sort, given = f"{query['IndexName']}s", 0
        while given < most:
            told = await self._ask("query", **query, ScanIndexForward=upward, Limit=most - given + 1)
            named = [item for item in told["Items"] if item[sort]["S"] != edge]
            ids = [item["pk"]["S"].partition("#")[2] for item in named]
            found = await self._rows(rows, ids)
            for id, item in zip(ids, named, strict=True):
                row = found.get(id)
                if given < most and row is not None and items.is_listed(rows, order, row, item):
                    given += 1
                    yield row
            if "LastEvaluatedKey" not in told:
                return
            query["ExclusiveStartKey"] = told["LastEvaluatedKey"]

    async def _rows(self, rows: Rows[Any], ids: Sequence[str]) -> dict[str, Row]:
        """The rows with these ids as they are now, long texts and all."""
        wanted, found = list(dict.fromkeys(id for id in ids if id)), dict[str, Row]()
        for _ in range(TRIES):
            heads = await self._items([items.record_key(rows, id) for id in wanted])
            wanted = []
            for item in heads:
                texts = await self._texts(item)
                id = item["id"]["S"]
                if texts is None:
                    wanted.append(id)  # replaced since its head was read: its parts are gone, so look again
                else:
                    found[id] = items.row_of(rows, item, texts)
            if not wanted:
                return found
        raise Unavailable("a record keeps changing while it is read", retry_after=1)

    async def _items(self, keys: Sequence[Item]) -> list[Item]:
        found: list[Item] = []
        for start in range(0, len(keys), GET):
            asked: Any = {self._table: {"Keys": list(keys[start : start + GET]), "ConsistentRead": True}}
            pause = 0.02
            while asked:
                told = await self._ask("batch_get_item", RequestItems=asked)
                found += told["Responses"].get(self._table, [])
                asked = told.get("UnprocessedKeys")
                if asked and not told["Responses"].get(self._table):
                    await asyncio.sleep(pause := min(1, pause * 2))
        return found

    async def _texts(self, item: Item) -> Mapping[str, str] | None:
        """The compressed long texts of an item; None where parts of them are no longer there."""
        if "z" in item:
            return items.unsqueezed(item["z"]["B"])
        if "parts" not in item:
            return {}
        keys = items.part_keys(item)
        parts = {part["pk"]["S"]: part["b"]["B"] for part in await self._items(keys)}
        if len(parts) < len(keys):
            return None
        return await asyncio.to_thread(items.unsqueezed, b"".join(parts[key["pk"]["S"]] for key in keys))

    # --- writing

    async def write(self, *changes: Change) -> None:
        """See Store."""
        planned = steps(changes)
        if planned:
            await self._write(planned)

    async def take(
        self,
        kind: type[R],
        order: str,
        at: Mapping[str, Any],
        *,
        until: Any,
        n: int,
        put: Mapping[str, Any],
        add: Mapping[str, int],
    ) -> list[R]:
        """See Store: a page, and a conditional write for each; who was too slow looks again and aims elsewhere."""
        rows = rows_of(kind)
        stored = put_and_added(rows, put, add)
        async with self._taking:  # takers of one process need not race each other
            return await self._take(rows, order, at, until, n, stored, add)

    async def _take(
        self,
        rows: Rows[R],
        order: str,
        at: Mapping[str, Any],
        until: Any,
        n: int,
        stored: Mapping[str, Any],
        add: Mapping[str, int],
    ) -> list[R]:
        due, taken = await self._due(rows.kind, order, at, n, until), list[R]()
        for _ in range(n + TRIES):
            if not due or len(taken) == n:
                break
            before = rows.row(due.pop())
            after = list(before)
            for name, value in stored.items():
                after[rows.place[name]] = value
            for name, amount in {**add, "version": 1}.items():
                after[rows.place[name]] += amount
            try:
                await self._write([Step(rows, before[rows.id_at], before, after, None)])
            except Stale:
                due = await self._due(rows.kind, order, at, n, until)
                random.shuffle(due)
            else:
                taken.append(rows.record(after))
        return taken

    async def _due(self, kind: type[R], order: str, at: Mapping[str, Any], n: int, until: Any) -> list[R]:
        """The first that are due and some more, the first one last."""
        return (await self.page(kind, order, at, limit=n + SPARE, until=until)).items[::-1]

    async def _write(self, planned: Sequence[Step]) -> None:
        """One transaction; parts of long texts are written before it, and those that it made useless removed after."""
        fresh: list[Item] = []
        spare: list[Item] = []
        try:
            heads = [await self._head(step, fresh) for step in planned]
            if any(step.before and step.rows.spec.long for step in planned):
                spare = await self._old_parts(planned)
            await self._transact(transaction(self._table, planned, heads))
        except LoquentError as error:
            if not isinstance(error, Unavailable):  # where it is unknown whether it happened, they may be needed
                await self._remove(fresh)
            raise
        await self._remove(spare)

    async def _head(self, step: Step, fresh: list[Item]) -> Item:
        """The item of a step's outcome; ``fresh`` gets the keys of the parts that were written for it."""
        if step.after is None:
            return {}
        rows, row = step.rows, step.after
        head = {**items.record_key(rows, step.id), **items.fields(rows, row), **items.indexed(rows, row)}
        texts = items.long_texts(rows, row)
        if sum(map(len, texts.values())) <= PLAIN:
            return {**head, **{name: items.wire(text) for name, text in texts.items()}}
        data = await asyncio.to_thread(items.squeezed, texts)
        if len(data) <= INLINE:
            return {**head, "z": {"B": data}}
        head["parts"], head["parts_of"] = {"N": str(-(-len(data) // PART))}, {"S": secrets.token_hex(16)}
        keys = items.part_keys(head)
        fresh += keys
        parts = [{**key, "b": {"B": data[at * PART : (at + 1) * PART]}} for at, key in enumerate(keys)]
        await self._each(parts, lambda part: self._ask("put_item", TableName=self._table, Item=part))
        return head

    async def _old_parts(self, planned: Sequence[Step]) -> list[Item]:
        """The parts that belong to what is replaced or removed now."""
        keys = [items.record_key(step.rows, step.id) for step in planned if step.before and step.rows.spec.long]
        return [key for item in await self._items(keys) if "parts" in item for key in items.part_keys(item)]

    async def _transact(self, parts: Sequence[Part]) -> None:
        # a token makes it safe for the SDK to send it again after a timeout: nothing is counted or added twice
        for tried in range(TRIES):
            try:
                await self._ask("transact_write_items", TransactItems=[part.request for part in parts])
            except Cancelled as cancelled:
                for part, code in zip(parts, cancelled.codes, strict=True):
                    if code == "ConditionalCheckFailed":
                        raise part.refused from None
                await asyncio.sleep(random.uniform(0, 0.01 * 2 ** min(tried, 6)))  # noqa: S311  # jitter
            else:
                return
        raise Unavailable("DynamoDB has too many writes of the same record", retry_after=1)

    async def _remove(self, keys: Sequence[Item]) -> None:
        """Take parts away that nobody names any more; where that fails they stay, and do no harm."""
        try:
            await self._each(keys, lambda key: self._ask("delete_item", TableName=self._table, Key=key))
        except Unavailable:
            return

    async def _each(self, each: Sequence[Item], do: Callable[[Item], Awaitable[Any]]) -> None:
        for start in range(0, len(each), WRITE):
            await asyncio.gather(*(do(one) for one in each[start : start + WRITE]))
