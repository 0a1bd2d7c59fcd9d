"""Copying: every record of every kind, and every file, from one place to any other; again where it was broken off."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loquent import blobs, stores
from loquent.domain import ids
from loquent.domain.clock import later, now
from loquent.domain.errors import Conflict, NotFound, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation
from loquent.domain.records import RECORDS, Spec
from loquent.domain.users import User
from loquent.ports.blobs import Blobs
from loquent.ports.store import MOST_CHANGES, Add, Bump, Change, Store
from loquent.services.copying import Copied, copy_files, copy_records
from loquent.stores import Keeper
from loquent.stores.rows import Json, shape
from s3_server import S3Server, with_keys
from storing import id_of

pytestmark = pytest.mark.anyio

MANY = MOST_CHANGES + 3
"""Records of each kind: more than one write takes."""
VALUES: dict[Any, Any] = {int: 7, float: 0.5, bool: True, Json: {"ä": [1, None, {"b": True}]}}


def some(spec: Spec) -> Any:
    """A record with something in each of its fields."""
    made = {}
    for name in spec.names:
        base, _ = shape(spec.types[name])
        made[name] = VALUES.get(base) or f"{name} of {id_of(spec.table)}"
    return spec.type(**{**made, "id": id_of(spec.table), **({"version": 1} if "version" in made else {})})


def added(spec: Spec, record: Any) -> Change:
    zeros = dict.fromkeys(spec.counters, 0)
    return Bump(evolve(record, **zeros), dict.fromkeys(spec.counters, 7)) if spec.counters else Add(record)


async def filled(store: Store) -> dict[str, Any]:
    """Records of every kind, now in the store, by their ids."""
    made = [(spec, some(spec)) for spec in RECORDS.values() for _ in range(MANY)]
    for spec, record in made:
        await store.write(added(spec, record))
    return {record.id: record for _, record in made}


async def held(store: Store) -> dict[str, Any]:
    pages = [await store.page(kind, "all", {}, limit=2 * MANY) for kind in RECORDS]
    return {each.id: each for page in pages for each in page.items}


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Keeper]:
    made = stores.connect("memory:", data_dir=tmp_path)
    await made.open()
    yield made
    await made.close()


async def test_all_that_one_store_holds_is_in_the_other_afterwards(store: Keeper, memory: Keeper) -> None:
    made, copied = await filled(memory), Copied()
    await copy_records(memory, store, copied)
    assert await held(store) == made
    assert copied.made == dict.fromkeys((spec.table for spec in RECORDS.values()), MANY)


async def test_a_copy_that_was_broken_off_goes_on_and_overwrites_nothing(store: Keeper, memory: Keeper) -> None:
    made = await filled(memory)
    early = [record for record in made.values() if isinstance(record, User)][:5]
    for each in early:
        await store.write(Add(each))
    lived = evolve(await _only(memory, Generation), model="another")  # as where a server has been at work on it since
    await store.write(Add(lived))
    copied = Copied()
    await copy_records(memory, store, copied)
    assert await held(store) == {**made, lived.id: evolve(lived, version=1)}
    assert (copied.there["users"], copied.made["users"]) == (5, MANY - 5)
    assert dict(copied.differ) == {"generations": 1}
    again = Copied()
    await copy_records(memory, store, again)
    assert again.made.total() == 0, "no counter is added to twice either"
    assert await held(store) == {**made, lived.id: evolve(lived, version=1)}


async def test_another_with_the_same_name_is_in_the_way(store: Keeper, memory: Keeper) -> None:
    ann = User(ids.new("usr"), 1, "t", "ann", None, "hash", True, now())
    await memory.write(Add(ann))
    await store.write(Add(evolve(ann, id=ids.new("usr"))))
    with pytest.raises(Conflict, match="users cannot be copied: its username is another's there"):
        await copy_records(memory, store, Copied())


@pytest.mark.xdist_group("s3")
async def test_files_go_to_a_bucket_and_back(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys(monkeypatch)
    one, other = (f"file://{tmp_path / name}" for name in ("one", "other"))
    source, bucket, target = blobs.connect(one), blobs.connect(s3.url()), blobs.connect(other)
    contents = {f"documents/{id_of('doc')}": os.urandom(100 + number) for number in range(20)}
    try:
        for each in (source, bucket, target):
            await each.open()
        for key, content in contents.items():
            (tmp_path / "file").write_bytes(content)
            await source.put(key, tmp_path / "file")
        await target.put(next(iter(contents)), tmp_path / "file")  # of another size: what a fault might have left
        for there, here in ((source, bucket), (bucket, target)):
            copied = Copied()
            await copy_files(there, here, copied)
            assert copied.made["files"] == 20
        assert {key: await whole(target, key) for key in contents} == contents
        again = Copied()
        await copy_files(bucket, target, again)
        assert (again.made["files"], again.there["files"]) == (0, 20)
    finally:
        for each in (source, bucket, target):
            await each.close()


class Away:
    """Blobs that take some and then no more."""

    def __init__(self, made: Blobs, takes: int) -> None:
        self._made, self._takes = made, takes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    async def put(self, key: str, path: Path) -> None:
        self._takes -= 1
        if self._takes < 0:
            raise Unavailable("the place for uploaded files is away")
        await self._made.put(key, path)


async def test_a_place_that_goes_away_ends_the_copy_which_then_goes_on(tmp_path: Path) -> None:
    source, target = (blobs.connect(f"file://{tmp_path / name}") for name in ("one", "other"))
    for each in (source, target):
        await each.open()
    (tmp_path / "file").write_bytes(b"file")
    for _ in range(20):
        await source.put(f"images/{id_of('img')}", tmp_path / "file")
    first, rest = Copied(), Copied()
    with pytest.raises(Unavailable):
        await copy_files(source, Away(target, 10), first)  # type: ignore[arg-type]  # it has all of them
    assert first.made["files"] == 10
    await copy_files(source, target, rest)
    assert (rest.made["files"], rest.there["files"]) == (10, 10)
    assert {each.key async for each in target.list(until=later(now(), 60))} == {
        each.key async for each in source.list(until=later(now(), 60))
    }


async def whole(place: Blobs, key: str) -> bytes:
    try:
        return b"".join([piece async for piece in place.get(key)])
    except NotFound:
        return b""


async def _only(store: Store, kind: type[Any]) -> Any:
    return (await store.page(kind, "all", {}, limit=1)).items[0]
