"""DynamoDB: one table for everything. Not ready for production: it is here to keep the seam honest.

It passes the contract on an emulator. Not shown on the real service: conflicts on a hot record, throttling, how far
the indexes lag. Known to be missing: parts of long texts that a crash leaves behind are not swept, a changed
declaration of orders or keys is refused and not migrated, and ``due`` is a single partition.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import parse_qsl, urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from loquent.domain.errors import Conflict, Invalid, LoquentError, Misconfigured, Stale, Taken, Unavailable
from loquent.ports.store import COUNT_CAP, Change, Page, Position
from loquent.stores import Checked
from loquent.stores import dynamodb_items as items
from loquent.stores.dynamodb_items import HIGHEST, INLINE, LOWEST, PART, PLAIN, Item
from loquent.stores.rows import Row, Rows, Step, check_position, check_values, put_and_added, rows_of, steps

R = TypeVar("R")

SCHEMA: Item = {"pk": {"S": "schema"}}
GET = 100  # items that one BatchGetItem asks for, at most
WRITE = 10  # parts that are written or removed at once
SPARE = 32  # records that a take looks at beyond those it wants, so that takers at once can part
TRIES = 12  # of a transaction that met another one
CONFIG = AioConfig(
    connect_timeout=5, read_timeout=10, max_pool_connections=24, retries={"mode": "standard", "max_attempts": 3}
)


class Part(NamedTuple):
    """One item of a transaction, and what it means where its condition does not hold."""

    request: dict[str, Any]
    refused: Conflict


class DynamoDB:
    """``dynamodb://table?region=eu-central-1``, or ``dynamodb://host:port/table`` for an emulator over HTTP.

    Each record is an item, each unique key another in the same transaction; every order is one of the generic
    indexes order0, order1, … that hold keys only, and what they name is read again consistently.
    """

    def __init__(self, url: str, data_dir: Path) -> None:
        self._table, self._options = _parts(url)
        self._client: Any = None
        self._stack = AsyncExitStack()
        self._taking = asyncio.Lock()
        self._under_way = 0
        self._idle = asyncio.Event()

    # --- opening, closing, looking

    async def open(self) -> None:
        """See Store; the table must be there: ``upgrade`` makes it."""
        if self._client is not None:
            return
        await self._connect()
        try:
            current = await self._layout()
            if current != items.layout():
                raise Misconfigured(
                    f"the DynamoDB table {self._table} has layout {current or 'none'}, this program wants "
                    f"{items.layout()}: `loquent store upgrade` makes a new table, and none of an older layout"
                )
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See Store."""
        client, self._client = self._client, None
        if client is not None:
            if self._under_way:
                self._idle.clear()
                await self._idle.wait()
            await self._stack.aclose()

    async def ready(self) -> None:
        """See Store."""
        try:
            async with asyncio.timeout(2):
                await self._ask("get_item", TableName=self._table, Key=SCHEMA)
        except TimeoutError:
            raise Unavailable("DynamoDB is too slow now", retry_after=1) from None

    async def upgrade(self) -> None:
        """Make the table where there is none."""
        async with self._connected():
            if await self._status() is None:
                await self._create()
            while await self._status() != "ACTIVE":  # noqa: ASYNC110  # there is no event: DynamoDB must be asked
                await asyncio.sleep(0.5)
            if await self._layout() is None:
                laid = {**SCHEMA, "layout": {"S": items.layout()}}
                await self._ask("put_item", TableName=self._table, Item=laid)

    async def check(self) -> Checked:
        """The table's layout; DynamoDB looks after its own soundness."""
        async with self._connected():
            status = await self._status()
            current = await self._layout() if status else None
        head = items.layout()
        said = () if current == head else (f"the table {self._table} has layout {current or 'none'}, not {head}",)
        return Checked(current, head, said)

    def _connected(self) -> _Connected:
        return _Connected(self)

    async def _connect(self) -> None:
        try:
            client = _session().create_client("dynamodb", config=CONFIG, **self._options)
            self._client = await self._stack.enter_async_context(client)
        except (NoRegionError, NoCredentialsError) as error:
            raise Misconfigured(f"LOQUENT_STORE names DynamoDB, but: {error}") from error

    async def _status(self) -> str | None:
        try:
            told = await self._ask("describe_table", TableName=self._table)
        except _Missing:
            return None
        return str(told["Table"]["TableStatus"])

    async def _layout(self) -> str | None:
        try:
            told = await self._ask("get_item", TableName=self._table, Key=SCHEMA, ConsistentRead=True)
        except _Missing:
            return None
        return str(told["Item"]["layout"]["S"]) if "Item" in told else None

    async def _create(self) -> None:
        keys = [(f"order{at}p", f"order{at}s") for at in range(items.INDEXES)]
        names = ["pk", *(name for key in keys for name in key)]
        await self._ask(
            "create_table",
            TableName=self._table,
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
        keys = _part_keys(item)
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
            await self._transact(_transaction(self._table, planned, heads))
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
        keys = _part_keys(head)
        fresh += keys
        parts = [{**key, "b": {"B": data[at * PART : (at + 1) * PART]}} for at, key in enumerate(keys)]
        await self._each(parts, lambda part: self._ask("put_item", TableName=self._table, Item=part))
        return head

    async def _old_parts(self, planned: Sequence[Step]) -> list[Item]:
        """The parts that belong to what is replaced or removed now."""
        keys = [items.record_key(step.rows, step.id) for step in planned if step.before and step.rows.spec.long]
        return [key for item in await self._items(keys) if "parts" in item for key in _part_keys(item)]

    async def _transact(self, parts: Sequence[Part]) -> None:
        # a token makes it safe for the SDK to send it again after a timeout: nothing is counted or added twice
        for tried in range(TRIES):
            try:
                await self._ask("transact_write_items", TransactItems=[part.request for part in parts])
            except _Cancelled as cancelled:
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

    # --- the wire

    async def _ask(self, operation: str, **request: Any) -> Any:
        """One call; its errors as ours."""
        client = self._client
        if client is None:
            raise Unavailable("the store is closed")
        self._under_way += 1
        try:
            with _told():
                return await getattr(client, operation)(**request)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()


class _Connected:
    """A connection for a look at the schema, where the store is not open; the open one where it is."""

    def __init__(self, store: DynamoDB) -> None:
        self._store = store
        self._was_open = store._client is not None

    async def __aenter__(self) -> None:
        if not self._was_open:
            await self._store._connect()

    async def __aexit__(self, *error: object) -> None:
        if not self._was_open:
            await self._store.close()


class _Missing(Unavailable):
    """There is no such table."""


class _Cancelled(Exception):
    """A transaction did not happen; a code for each of its items says why."""

    def __init__(self, codes: list[str]) -> None:
        self.codes = codes


@contextmanager
def _told() -> Iterator[None]:
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
        raise _Cancelled([reason.get("Code", "None") for reason in said.get("CancellationReasons", [])]) from None
    if code == "ResourceNotFoundException":
        raise _Missing("the DynamoDB table is not there") from error
    if code in ("ValidationException", "ItemCollectionSizeLimitExceededException"):
        raise Invalid(f"DynamoDB does not take this: {said['Error'].get('Message')}") from error
    raise Unavailable(f"DynamoDB cannot answer now: {code}", retry_after=1) from error


def _transaction(table: str, planned: Sequence[Step], heads: Sequence[Item]) -> list[Part]:
    """The items of a transaction: each record, and each unique key that is freed or taken; none of them twice."""
    parts: list[Part] = []
    keys: dict[str, int] = {}  # where each unique key stands in parts
    for step, head in zip(planned, heads, strict=True):
        rows, mine = step.rows, {":id": {"S": step.id}}
        parts.append(_record_part(table, step, head))
        for name, fields in rows.spec.unique.items():
            read = rows.reader(fields)
            was, shall = step.before and read(step.before), step.after and read(step.after)
            if was == shall:
                continue
            taken = Taken(name)
            if was:
                key = items.unique_key(rows, name, was)
                if key["pk"]["S"] in keys:
                    raise taken  # an earlier change of this write wants what only this one frees
                keys[key["pk"]["S"]] = len(parts)
                request = {"TableName": table, "Key": key, "ConditionExpression": "id = :id"}
                parts.append(Part({"Delete": {**request, "ExpressionAttributeValues": mine}}, Stale()))
            if shall:
                key = items.unique_key(rows, name, shall)
                put = {"TableName": table, "Item": {**key, "id": {"S": step.id}}}
                at = keys.get(key["pk"]["S"])
                if at is None:
                    keys[key["pk"]["S"]] = len(parts)
                    parts.append(Part({"Put": {**put, "ConditionExpression": "attribute_not_exists(pk)"}}, taken))
                    continue
                freed = parts[at].request.get("Delete")
                if freed is None:
                    raise taken
                kept = {name: freed[name] for name in ("ConditionExpression", "ExpressionAttributeValues")}
                parts[at] = Part({"Put": {**put, **kept}}, parts[at].refused)
    return parts


def _record_part(table: str, step: Step, head: Item) -> Part:
    key = items.record_key(step.rows, step.id)
    if step.by is not None:
        return Part({"Update": {"TableName": table, "Key": key, **_raise(head, step.by)}}, Stale())
    if step.before is None:
        put = {"TableName": table, "Item": head, "ConditionExpression": "attribute_not_exists(pk)"}
        return Part({"Put": put}, Taken("id"))
    same: dict[str, Any] = {"TableName": table, "ConditionExpression": "attribute_exists(pk)"}
    at = step.rows.version_at
    if at is not None:
        version = {":version": items.wire(step.before[at])}
        same |= {"ConditionExpression": "version = :version", "ExpressionAttributeValues": version}
    return Part({"Put": {**same, "Item": head}} if step.after else {"Delete": {**same, "Key": key}}, Stale())


def _raise(head: Item, by: Mapping[str, int]) -> dict[str, Any]:
    """An update that makes what is not there yet, and adds to the counters."""
    names = [name for name in head if name != "pk"]
    sets, values = [], Item()
    for at, name in enumerate(names):
        values[f":v{at}"] = head[name]
        raised = f" + :by{at}" if name in by else ""
        sets.append(f"#n{at} = if_not_exists(#n{at}, :v{at}){raised}")
        if name in by:
            values[f":by{at}"] = items.wire(by[name])
    return {
        "UpdateExpression": "SET " + ", ".join(sets),
        "ExpressionAttributeNames": {f"#n{at}": name for at, name in enumerate(names)},
        "ExpressionAttributeValues": values,
    }


@cache
def _session() -> Any:
    """One for the process: it keeps what it has read of the SDK's large description files."""
    return get_session()


def _part_keys(head: Item) -> list[Item]:
    return [items.part_key(head["parts_of"]["S"], at) for at in range(int(head["parts"]["N"]))]


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
