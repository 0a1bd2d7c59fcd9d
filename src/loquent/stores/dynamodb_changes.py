"""Changes as one DynamoDB transaction: each record, each unique key, and what it means where one is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loquent.domain.errors import Conflict, Stale, Taken
from loquent.stores import dynamodb_items as items
from loquent.stores.dynamodb_items import Item
from loquent.stores.rows import Step


class Part(NamedTuple):
    """One item of a transaction, and what it means where its condition does not hold."""

    request: dict[str, Any]
    refused: Conflict


def transaction(table: str, planned: Sequence[Step], heads: Sequence[Item]) -> list[Part]:
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
