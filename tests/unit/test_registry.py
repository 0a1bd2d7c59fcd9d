"""The registry: rows that are added while the program runs, in this process and in its neighbours."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from built import ANN, BOB, opened, shared, two, wanted
from loquent.domain.clock import now
from loquent.domain.errors import Conflict, Invalid, LoquentError, Misconfigured, NotFound
from loquent.domain.models import Model
from loquent.domain.principals import Principal
from loquent.domain.registry import ModelRow, has_secret, place_of
from loquent.engines import host_of
from loquent.ports.store import Add
from loquent.wiring import Services
from scripted import Caller, listening

pytestmark = pytest.mark.anyio

ROOT = Principal("default", "usr_root", "root", is_admin=True)
PARROT = {"name": "parrot", "engine": "echo", "id": "echo"}
SECONDS = 20.0  # in which other processes have long seen a change; the promise is about one


async def said(services: Services, model: str, prompt: str = "one two", who: Principal = ANN, **more: object) -> str:
    begun = await services.generations.begin(who, wanted(prompt, model=model, **more))
    return (await services.generations.collect(begun)).now()[1].output


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.02)


def stored(row: dict[str, Any], name: str | None = None) -> Add:
    """A row as a store may hold it, whatever it says."""
    moment = now()
    return Add(ModelRow(f"mdl_{moment}{name or row['name']}", 0, name or row["name"], row, moment, moment, "usr_root"))


async def test_an_added_model_answers_at_once_and_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, **shared(tmp_path)) as services:
        with pytest.raises(NotFound):
            await said(services, "parrot")
        await services.registry.add(ROOT, {**PARROT, "price": {"input": 3}, "defaults": {"max_tokens": 2}})
        assert await said(services, "parrot", "one two three") == "one two"
        assert [row.name for row in services.models.rows()][-1] == "parrot", "behind those of the settings"
    async with opened(tmp_path, **shared(tmp_path)) as services:
        assert await said(services, "parrot", "one two three") == "one two"
        assert services.models.offer("parrot").model.price.input == 3_000_000
        await services.registry.remove(ROOT, "parrot")
        with pytest.raises(NotFound):
            await said(services, "parrot")
    async with opened(tmp_path, **shared(tmp_path)) as services:
        assert services.registry.added("parrot") is None


async def test_other_processes_see_what_has_changed(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        await one.registry.add(ROOT, PARROT)
        await until(lambda: "parrot" in other.models.offers)
        assert await said(other, "parrot") == "one two"
        await other.registry.replace(ROOT, "parrot", {**PARROT, "context": 77})
        await until(lambda: one.models.offer("parrot").model.context == 77)
        await one.registry.remove(ROOT, "parrot")
        await until(lambda: "parrot" not in other.models.offers)


async def test_of_two_who_add_a_name_at_once_one_does(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        results = await asyncio.gather(
            *(each.registry.add(ROOT, PARROT) for each in (one, other)), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in results) == ["Conflict", "str"]
        rows = [dict(PARROT, context=number) for number in range(1, 9)]
        await asyncio.gather(
            *((one, other)[number % 2].registry.replace(ROOT, "parrot", row) for number, row in enumerate(rows))
        )
        await one.registry.look()
        await other.registry.look()
        assert one.models.offer("parrot").model == other.models.offer("parrot").model


async def test_a_job_for_a_model_that_another_process_has_just_added_is_done(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, _):
        await one.registry.add(ROOT, PARROT)
        begun = await one.generations.submit(ANN, wanted("one two", model="parrot"))
        async with asyncio.timeout(SECONDS):
            while not (found := await one.generations.get(ANN, begun.generation.id))[0].is_over:
                await asyncio.sleep(0.02)
        assert (found[0].status, found[1].output) == ("completed", "one two")


async def test_a_job_runs_on_the_row_of_then_and_fails_where_there_is_none(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False, **shared(tmp_path)) as services:
        for name in ("stays", "goes"):
            await services.registry.add(ROOT, {**PARROT, "name": name, "defaults": {"max_tokens": 1}})
        begun = [await services.generations.submit(ANN, wanted("one two", model=name)) for name in ("stays", "goes")]
        await services.registry.replace(ROOT, "stays", {**PARROT, "name": "stays"})
        await services.registry.remove(ROOT, "goes")
    async with opened(tmp_path, **shared(tmp_path)) as services:
        ended = []
        async with asyncio.timeout(SECONDS):
            for each in begun:
                while not (found := await services.generations.get(ANN, each.generation.id))[0].is_over:
                    await asyncio.sleep(0.02)
                ended.append((found[0].status, found[0].error_code, found[1].output))
        assert ended == [("completed", None, "one two"), ("failed", "not_found", "")]


# Names, fallbacks, checks


@pytest.mark.parametrize("name", ["echo", "extractive"])
async def test_names_of_the_settings_are_taken_and_their_rows_stay(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as services:
        for attempt in (
            services.registry.add(ROOT, {**PARROT, "name": name}),
            services.registry.replace(ROOT, name, {**PARROT, "name": name}),
            services.registry.remove(ROOT, name),
        ):
            with pytest.raises(Conflict, match=name):
                await attempt
        await services.registry.add(ROOT, PARROT)
        with pytest.raises(Conflict, match="already"):
            await services.registry.add(ROOT, PARROT)


async def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        for attempt in (services.registry.replace(ROOT, "parrot", PARROT), services.registry.remove(ROOT, "parrot")):
            with pytest.raises(NotFound):
                await attempt


async def test_added_rows_stand_in_for_each_other_and_only_who_is_not_needed_goes(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        await services.registry.add(ROOT, {**PARROT, "name": "second"})
        await services.registry.add(ROOT, {**PARROT, "name": "first", "retries": 0, "fallback": ["second", "echo"]})
        groups = services.models.offer("first").groups
        assert [way.model.name for group in groups for way in group] == ["first", "second", "echo"]
        with pytest.raises(Conflict, match="stands in for first"):
            await services.registry.remove(ROOT, "second")
        with pytest.raises(Invalid, match="lacks the ability") as refused:
            await services.registry.replace(ROOT, "second", {**PARROT, "name": "second", "abilities": ["chat"]})
        assert refused.value.field == "fallback"
        await services.registry.replace(ROOT, "first", {**PARROT, "name": "first"})
        await services.registry.remove(ROOT, "second")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"engine": "frobnicate"}, "engine"),
        ({"engine": ""}, "engine"),
        ({"name": " parrot"}, "name"),
        ({"name": "parrot/"}, "name"),
        ({"name": "a\x07b"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"abilities": ["fly"]}, "abilities"),
        ({"weight": 0}, "weight"),
        ({"retries": 1.0}, "retries"),
        ({"context": True}, "context"),
        ({"fallback": ["nobody"]}, "fallback"),
        ({"fallback": ["parrot"]}, "fallback"),
        ({"fallback": ["extractive"]}, "fallback"),
        ({"price": {"input": -1}}, "price"),
        ({"timeouts": {"total": 0}}, "timeouts"),
        ({"timeout": 5, "timeouts": "soon"}, "timeouts"),
        ({"defaults": {"temperature": "hot"}}, "defaults"),
        ({"defaults": {"stop": "a"}}, "defaults"),
        ({"users": "ann"}, "users"),
        ({"engine": "openai", "url": "ftp://models.example"}, "url"),
        ({"engine": "openai", "url": "https://ann:pass@models.example/v1"}, "url"),
        ({"engine": "openai", "url": "https://models.example/v1?key=pass"}, "url"),
        ({"engine": "openai", "url": "https://[pass"}, "url"),
        ({"key_file": "/etc/passwd"}, "key_file"),
    ],
)
async def test_a_row_that_cannot_be_used_is_refused_by_its_field(
    tmp_path: Path, more: dict[str, Any], field: str
) -> None:
    async with opened(tmp_path) as services:
        with pytest.raises(Invalid) as refused:
            await services.registry.add(ROOT, {**PARROT, **more})
        assert refused.value.field == field
        assert "pass@" not in refused.value.message
        assert "key=pass" not in refused.value.message
        assert await services.store.count(ModelRow, "all", {}) == 0
        assert "parrot" not in services.models.offers


# What the store holds may have been good once


async def test_stored_rows_that_cannot_be_used_are_told_of_and_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {
        "engine gone": {**PARROT, "engine": "frobnicate"},
        "no row": {"frobnicate": [1]},
        "echo": {**PARROT, "name": "echo"},
        "alone": {**PARROT, "fallback": ["nobody"]},
        "leans on alone": {**PARROT, "fallback": ["alone"]},
        "thief": {**PARROT, "engine": "openai", "url": "http://127.0.0.1:9/v1", "key_env": "LOQUENT_SECRET"},
        "good": dict(PARROT),
    }
    async with opened(tmp_path, **shared(tmp_path)) as services:
        for name, row in rows.items():
            await services.store.write(stored({**row, "name": name}, name))
    with caplog.at_level(logging.WARNING, "loquent"):
        async with opened(tmp_path, **shared(tmp_path)) as services:
            assert await said(services, "good") == "one two"
            assert services.models.offer("echo").is_added is False
            left_out = {each.record.name: each.problem for each in services.registry.left_out()}
            assert set(left_out) == set(rows) - {"good"}
            assert "LOQUENT_KEY_HOSTS" in left_out["thief"]
            assert {each.__dict__.get("fields", {}).get("model") for each in caplog.records} >= set(left_out)
            await services.registry.add(ROOT, {**PARROT, "name": "nobody"})
            assert await said(services, "leans on alone") == "one two", "what it leans on is there now"
            for name in ("engine gone", "no row", "echo", "thief"):
                await services.registry.remove(ROOT, name)
            assert services.registry.left_out() == []
            assert await said(services, "echo") == "one two"


async def test_a_store_that_is_away_is_looked_at_again(tmp_path: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        await services.store.close()
        await asyncio.sleep(1.2)
        with pytest.raises(LoquentError):
            await services.registry.look()
        await services.store.open()
        await services.store.write(stored(PARROT))
        await until(lambda: "parrot" in services.models.offers)


# Engines that are offered no more


async def slow(caller: Caller) -> None:
    """A chat that takes a while, word by word."""
    await caller.begin()
    for word in ("one ", "two ", "three"):
        chunk = {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        await caller.chunk(b"data: %s\n\n" % json.dumps(chunk).encode())
        await asyncio.sleep(1)
    await caller.chunk(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    await caller.send(b"0\r\n\r\n")


async def test_what_runs_keeps_its_engine_which_is_closed_when_all_have_ended(tmp_path: Path) -> None:
    async with listening(slow) as (url, server), opened(tmp_path) as services:
        remote = {"name": "far", "engine": "openai", "id": "far", "url": f"{url}/v1", "abilities": ["chat"]}
        await services.registry.add(ROOT, remote)
        runs = asyncio.create_task(said(services, "far", streamed=True))
        await server.asked.wait()
        await services.registry.replace(ROOT, "far", {**PARROT, "name": "far"})
        assert await said(services, "far", "at once") == "at once"
        assert await runs == "one two three", "after the time in which an idle engine is closed"
        assert server.connections == 1
        await until(lambda: server.open == 0)


# Keys


async def test_a_key_goes_where_the_operator_has_said_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(caller: Caller) -> None:
        message = {"role": "assistant", "content": "well"}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        await caller.answer(json.dumps(body).encode())

    monkeypatch.setenv("FAR_KEY", "sk-far-secret")
    monkeypatch.setenv("OTHER_KEY", "sk-other-secret")
    async with listening(answer) as (url, server):
        row = {"name": "far", "engine": "openai", "id": "far", "url": f"{url}/v1", "abilities": ["chat"]}
        async with opened(tmp_path, LOQUENT_KEY_HOSTS="FAR_KEY=127.0.0.1, OTHER_KEY=models.example") as services:
            for name in ("OTHER_KEY", "LOQUENT_SECRET", "PATH"):
                with pytest.raises(Invalid, match="LOQUENT_KEY_HOSTS") as refused:
                    await services.registry.add(ROOT, {**row, "key_env": name})
                assert refused.value.field == "key_env"
            elsewhere = {**row, "url": "http://127.0.0.1.models.example/v1", "key_env": "FAR_KEY"}
            with pytest.raises(Invalid, match="LOQUENT_KEY_HOSTS"):
                await services.registry.add(ROOT, elsewhere)
            assert server.seen == []
            await services.registry.add(ROOT, {**row, "key_env": "FAR_KEY"})
            assert await said(services, "far") == "well"
            assert server.seen[-1].headers["authorization"] == "Bearer sk-far-secret"
            kept = (await services.store.page(ModelRow, "all", {}, limit=10)).items
            assert "sk-far-secret" not in repr(kept)


async def test_a_row_of_the_settings_pairs_its_key_with_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-far-secret")
    rows = '[[model]]\nname = "far"\nengine = "openai"\nid = "far"\nurl = "http://127.0.0.1:9/v1"\nkey_env = "FAR_KEY"'
    async with opened(tmp_path, **own_rows(tmp_path, rows)) as services:
        row = {"name": "near", "engine": "openai", "id": "near", "url": "http://127.0.0.1:9/v1", "key_env": "FAR_KEY"}
        await services.registry.add(ROOT, row)
        with pytest.raises(Invalid, match="LOQUENT_KEY_HOSTS"):
            await services.registry.add(ROOT, {**row, "name": "thief", "url": "http://127.0.0.2:9/v1"})
        for place in ("http://127.0.0.1:10/v1", "https://127.0.0.1:9/v1", "http://[", "http://[::1"):
            with pytest.raises(Invalid):
                await services.registry.add(ROOT, {**row, "name": "thief", "url": place})


@pytest.mark.parametrize("id", ["/etc/passwd", "../secret.gguf"])
async def test_an_added_row_names_no_file_outside_the_folder_of_the_models(tmp_path: Path, id: str) -> None:
    async with opened(tmp_path) as services:
        with pytest.raises(Invalid) as refused:
            await services.registry.add(ROOT, {"name": "peek", "engine": "llama", "id": id})
        assert refused.value.field == "id"


async def test_a_key_may_lie_in_a_file_which_only_the_settings_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(caller: Caller) -> None:
        await caller.answer(b'{"choices":[{"index":0,"message":{"content":"well"},"finish_reason":"stop"}]}')

    key = tmp_path / "key"
    key.write_text("sk-of-a-file\n")
    key.chmod(0o600)
    async with listening(answer) as (url, server):
        rows = f'[[model]]\nname = "far"\nengine = "openai"\nid = "far"\nurl = "{url}/v1"\nkey_file = "{key}"'
        async with opened(tmp_path, **own_rows(tmp_path, rows)) as services:
            assert await said(services, "far") == "well"
            assert server.seen[-1].headers["authorization"] == "Bearer sk-of-a-file"
            assert "everybody on this machine can read a key" not in caplog.messages
        key.chmod(0o644)
        async with opened(tmp_path, **own_rows(tmp_path, rows)):
            assert "everybody on this machine can read a key" in caplog.messages
            assert "sk-of-a-file" not in caplog.text
        key.write_text("two\nlines")
        for path in (key, tmp_path / "nowhere"):
            key.rename(path) if not path.exists() else None
            with pytest.raises(Misconfigured, match="key_file"):
                async with opened(tmp_path, **own_rows(tmp_path, rows)):
                    pass


def own_rows(folder: Path, rows: str) -> dict[str, str]:
    """The setting for rows of one's own."""
    (folder / "own.toml").write_text(rows)
    return {"LOQUENT_MODELS": str(folder / "own.toml")}


@pytest.mark.parametrize(
    ("engine", "url", "host"),
    [
        ("openai", "https://Models.Example.:8080/v1", "models.example"),
        ("openai", None, ""),
        ("anthropic", None, "api.anthropic.com"),
        ("anthropic", "https://models.example", "models.example"),
        ("transformers", "https://models.example", "huggingface.co"),
        ("echo", None, ""),
    ],
)
def test_the_host_of_a_key_is_the_one_that_its_engine_calls(engine: str, url: str | None, host: str) -> None:
    assert host_of(Model("a", engine, "a", url=url)) == host


def test_a_url_is_shown_without_what_may_be_secret() -> None:
    assert place_of("https://ann:pass@models.example:1/v1?key=pass#pass") == "https://models.example:1/v1"
    assert not has_secret("https://models.example:1/v1")


# Who may use it


PRIVATE = {**PARROT, "name": "hers", "users": ["ann"], "abilities": ["chat", "text", "summary", "vision"]}


async def test_a_row_for_some_is_not_there_for_others(tmp_path: Path) -> None:
    anonymous = Principal("default", "anon_1", "ann", is_anonymous=True)
    async with opened(tmp_path) as services:
        await services.registry.add(ROOT, PRIVATE)
        assert await said(services, "hers", who=ANN) == "one two"
        for who in (BOB, anonymous):
            with pytest.raises(NotFound) as hidden:
                await said(services, "hers", who=who)
            with pytest.raises(NotFound) as absent:
                await said(services, "his", who=who)
            assert hidden.value.message.replace("hers", "his") == absent.value.message
            assert "hers" not in [row.name for row in services.models.rows(who)]
        await services.registry.replace(ROOT, "hers", {**PRIVATE, "users": ["*"]})
        assert await said(services, "hers", who=BOB) == "one two"
        with pytest.raises(NotFound):
            await said(services, "hers", who=anonymous)


async def test_whose_default_is_not_for_him_gets_the_first_that_is(tmp_path: Path) -> None:
    def row(name: str, *more: str) -> str:
        return "\n".join(("[[model]]", f'name = "{name}"', 'engine = "echo"', 'id = "echo"', *more)) + "\n"

    for_ann = ('users = ["ann"]', 'abilities = ["chat", "text", "summary", "vision"]')
    rows = row("hers", *for_ann) + row("seer", 'abilities = ["vision"]') + row("all")
    async with opened(tmp_path, LOQUENT_SUMMARY_MODEL="hers", **own_rows(tmp_path, rows)) as services:
        models = services.models
        assert (models.default, models.summary, models.image) == ("hers", "hers", "hers")
        for who, name in ((ANN, "hers"), (BOB, "all")):
            assert models.pick(None, "chat", who=who).model.name == name
            assert models.pick_for_summary(None, who).model.name == name
            assert models.text_offer(who).model.name == name
        assert models.pick_for_image(None, BOB).model.name == "seer"
    async with opened(tmp_path, LOQUENT_SUMMARY_MODEL="hers", **own_rows(tmp_path, row("hers", *for_ann))) as services:
        for pick in (services.models.pick_for_summary, services.models.pick_for_image, services.models.text_offer):
            with pytest.raises(NotFound, match="model"):
                pick(*([None] if pick != services.models.text_offer else []), who=BOB)  # type: ignore[operator]
