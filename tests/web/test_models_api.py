"""The models as callers and as administrators see them, and that nobody gets at a model that is not for him."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asking import JSON, MULTIPART, Answer, Headers, admin_of, ask, form, kept, serving, token_of
from loquent.domain.models import ABILITIES, Model
from loquent.domain.registry import SETTINGS_ONLY
from loquent.web.api.models import Row
from loquent.web.edge import Edge
from loquent.wiring import Services
from making import filled
from surfaces import ACCESS, ADMIN, FORMS, PUBLIC, SAMPLES, taking

pytestmark = pytest.mark.anyio

PARROT = {"name": "org/parrot", "engine": "echo", "id": "echo-1"}
FAR = {
    "name": "far",
    "engine": "openai",
    "id": "far-1",
    "url": "http://127.0.0.1:9/v1",
    "price": {"input": 2.5, "output": 10, "cached": 0.25},
    "defaults": {"temperature": 0.5},
    "context": 1000,
    "timeouts": {"total": 7},
    "weight": 2,
    "fallback": ["echo"],
    "users": ["ann"],
}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[tuple[Edge, Services]]:
    async with serving(tmp_path, works=False) as found:
        yield found


def as_(token: str) -> Headers:
    return [("authorization", f"Bearer {token}")]


async def call(app: Edge, method: str, path: str, who: Headers, body: Any = None) -> Answer:
    if body is None:
        return await ask(app, method, path, headers=who)
    return await ask(app, method, path, headers=[JSON, *who], body=json.dumps(body).encode())


def test_a_row_of_the_api_has_the_fields_of_one_in_a_file() -> None:
    in_a_file = {each.name for each in fields(Model)} | {"timeout"}
    assert set(Row.model_fields) == in_a_file - set(SETTINGS_ONLY)


async def test_a_caller_sees_what_he_may_use_and_an_administrator_what_is_behind_it(at: tuple[Edge, Services]) -> None:
    app, services = at
    root, ann, bob = (as_(await admin_of(services)), *(as_(token_of(services, name)) for name in ("ann", "bob")))
    made = await call(app, "POST", "/api/v1/models", root, FAR)
    assert made.status == 201
    mine = (await call(app, "GET", "/api/v1/models/far", ann)).json()
    assert mine == {
        "id": "far",
        "object": "model",
        "engine": "openai",
        "abilities": ["chat", "text"],
        "context": 1000,
        "price": {"input": 2_500_000, "output": 10_000_000, "cached": 250_000},
        "defaults": {"temperature": 0.5},
        "source": "added",
        "is_default": False,
        "is_summary_default": False,
        "is_image_default": False,
    }
    for who, is_there in ((ann, True), (bob, False), (root, True), ([], False)):
        listed = (await call(app, "GET", "/api/v1/models", who)).json()["data"]
        assert ("far" in [each["id"] for each in listed]) == is_there
        assert (await call(app, "GET", "/api/v1/models/far", who)).status == (200 if is_there else 404)
        assert {each["source"] for each in listed} == ({"settings", "added"} if is_there else {"settings"})
        if who != root:
            assert all(each.keys() == mine.keys() for each in listed)
    whole = (await call(app, "GET", "/api/v1/models/far", root)).json()
    assert whole == made.json()
    assert (whole["users"], whole["fallback"], whole["row"], whole["created_by"]) == (
        ["ann"],
        ["echo"],
        FAR,
        "usr_root",
    )
    (behind,) = whole["rows"]
    assert (behind["engine_id"], behind["url"], behind["weight"]) == ("far-1", "http://127.0.0.1:9/v1", 2)
    assert (behind["timeouts"]["total"], behind["key_env"]) == (7, None)


async def test_rows_are_added_replaced_tried_and_removed_by_names_with_slashes(at: tuple[Edge, Services]) -> None:
    app, services = at
    root = as_(await admin_of(services))
    assert (await call(app, "POST", "/api/v1/models", root, PARROT)).json()["id"] == "org/parrot"
    assert (await call(app, "POST", "/api/v1/models", root, PARROT)).status == 409
    place = "/api/v1/models/org/parrot"
    asked = {"prompt": "one two", "model": "org/parrot"}
    assert (await call(app, "POST", "/api/v1/generations", [], asked)).json()["output"] == "one two"
    changed = await call(app, "PUT", place, root, {**PARROT, "defaults": {"max_tokens": 1}})
    assert (changed.status, changed.json()["defaults"]) == (200, {"max_tokens": 1})
    assert (await call(app, "POST", "/api/v1/generations", [], asked)).json()["output"] == "one"
    renamed = await call(app, "PUT", place, root, {**PARROT, "name": "other"})
    assert (renamed.status, renamed.json()["field"]) == (422, "name")
    assert (await call(app, "POST", f"{place}/test", root)).json() == {
        "id": "org/parrot",
        "ready": True,
        "detail": "ok",
    }
    assert (await call(app, "DELETE", place, root)).status == 204
    for method, body in (("GET", None), ("PUT", PARROT), ("DELETE", None)):
        assert (await call(app, method, place, root, body)).status == 404
    assert (await call(app, "POST", "/api/v1/generations", [], asked)).status == 404


async def test_an_engine_that_is_away_is_said_to_be(at: tuple[Edge, Services]) -> None:
    app, services = at
    root = as_(await admin_of(services))
    await call(app, "POST", "/api/v1/models", root, FAR)
    tried = await call(app, "POST", "/api/v1/models/far/test", root)
    assert (tried.status, tried.json()["ready"]) == (200, False)
    assert "cannot be reached" in tried.json()["detail"]


async def test_health_which_everybody_sees_does_not_name_a_model_that_is_not_for_everybody(
    at: tuple[Edge, Services],
) -> None:
    app, services = at
    await call(app, "POST", "/api/v1/models", as_(await admin_of(services)), FAR)
    answer = await call(app, "GET", "/api/v1/health/detailed", [])
    assert b"far" not in answer.body
    assert (answer.json()["status"], "it does not answer" in answer.json()["checks"].values()) == ("degraded", True)
    assert answer.json()["checks"]["model:echo"] == "ok"


async def test_rows_of_the_settings_stay_and_so_does_whom_others_fall_back_on(at: tuple[Edge, Services]) -> None:
    app, services = at
    root = as_(await admin_of(services))
    for method, path, body in (
        ("POST", "/api/v1/models", {**PARROT, "name": "echo"}),
        ("PUT", "/api/v1/models/echo", {**PARROT, "name": "echo"}),
        ("DELETE", "/api/v1/models/echo", None),
    ):
        assert (await call(app, method, path, root, body)).status == 409, method
    await call(app, "POST", "/api/v1/models", root, PARROT)
    await call(app, "POST", "/api/v1/models", root, {**PARROT, "name": "leans", "fallback": ["org/parrot"]})
    refused = await call(app, "DELETE", "/api/v1/models/org/parrot", root)
    assert (refused.status, "leans" in refused.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"weight": -1}, "weight"),
        ({"fallback": ["nobody"]}, "fallback"),
        ({"engine": "openai"}, "url"),
        ({"engine": "openai", "url": "http://ann:pass@127.0.0.1:9/v1"}, "url"),
        ({"engine": "openai", "url": "http://127.0.0.1:9/v1", "key_env": "LOQUENT_SECRET"}, "key_env"),
        ({"engine": "frobnicate"}, "engine"),
        ({"key_file": "/etc/hostname"}, "key_file"),
        ({"price": {"input": "much"}}, "price"),
    ],
)
async def test_what_is_wrong_with_a_row_is_said_with_its_field(
    at: tuple[Edge, Services], more: Mapping[str, Any], field: str
) -> None:
    app, services = at
    root, before = as_(await admin_of(services)), await kept(services)
    refused = await call(app, "POST", "/api/v1/models", root, {**PARROT, **more})
    assert (refused.status, refused.json()["field"]) == (422, field)
    assert b"pass" not in refused.body.replace(b"password", b"")
    assert await kept(services) == before


async def test_a_stored_row_that_cannot_be_used_is_shown_with_the_reason_to_administrators(tmp_path: Path) -> None:
    store = {"LOQUENT_STORE": f"sqlite:///{tmp_path / 'records.db'}"}
    async with serving(tmp_path, works=False, LOQUENT_KEY_HOSTS="PATH=127.0.0.1", **store) as (app, services):
        root = as_(await admin_of(services))
        assert (await call(app, "POST", "/api/v1/models", root, {**FAR, "key_env": "PATH"})).status == 201
    async with serving(tmp_path, works=False, **store) as (app, services):  # that is paired no more
        root = as_(await admin_of(services))
        shown = (await call(app, "GET", "/api/v1/models/far", root)).json()
        assert "LOQUENT_KEY_HOSTS" in shown["problem"]
        assert shown in (await call(app, "GET", "/api/v1/models", root)).json()["data"]
        assert (await call(app, "GET", "/api/v1/models/far", as_(token_of(services, "ann")))).status == 404
        assert (await call(app, "PUT", "/api/v1/models/far", root, FAR)).status == 200
        assert (await call(app, "GET", "/api/v1/models/far", as_(token_of(services, "ann")))).status == 200


# Whose it is: on every route that takes a model, or picks one

ROWS = """
[[model]]
name = "hers"
engine = "echo"
id = "echo"
users = ["ann"]
abilities = [{abilities}]
"""
NAMING = [
    *(path for path, schema in taking("application/json").items() if "model" in schema["properties"]),
    *(path for path, schema in taking("multipart/form-data").items() if "model" in schema["properties"]),
]
"""Every POST that takes the name of a model."""
TAKING = sorted(path for path in (*SAMPLES, *FORMS) if ACCESS["POST", path] not in (PUBLIC, ADMIN))
"""Every POST of a body by callers; which of them ask a model is found out by asking as somebody who may use one."""


async def post(app: Edge, path: str, who: Headers, model: str | None) -> Answer:
    """A good request there, of that model; None: of whatever there is."""
    if path in FORMS:
        named = {"model": model} if model else {}
        return await ask(app, "POST", path, headers=[MULTIPART, *who], body=form({**FORMS[path], **named}))
    sample = {name: value for name, value in SAMPLES[path].items() if name != "model"}
    target, body = await filled(app, path, {**sample, **({"model": model} if model else {})}, {"headers": who})
    return await ask(app, "POST", target, headers=[JSON, *who], body=body)


def settings_of(folder: Path, *, with_another: bool) -> dict[str, str]:
    """A deployment with a model for Ann alone that can do everything; and perhaps one for all, that answers first."""
    rows = ROWS.format(abilities=", ".join(json.dumps(each) for each in sorted(ABILITIES - {"boolean"})))
    other = rows.replace("hers", "everybodys").replace('users = ["ann"]\n', "") if with_another else ""
    (folder / "own.toml").write_text(other + rows)
    return {"LOQUENT_MODELS": str(folder / "own.toml"), "LOQUENT_SUMMARY_MODEL": "everybodys" if other else "hers"}


async def test_a_model_that_is_only_for_ann_is_not_found_by_bob_and_nothing_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, **settings_of(tmp_path, with_another=True)) as (app, services):
        ann, bob = (as_(token_of(services, name)) for name in ("ann", "bob"))
        for path in NAMING:
            assert (await post(app, path, ann, "hers")).status in (200, 201, 202), path
            counts = [sum((await kept(services)).values())]
            for who, model, statuses in (
                (bob, "everybodys", (200, 201, 202)),
                (bob, "everybodys", (200, 201, 202)),
                (bob, "hers", (404,)),
            ):
                answer = await post(app, path, who, model)
                assert answer.status in statuses, (path, answer.body)
                counts.append(sum((await kept(services)).values()))
            assert b"hers" in answer.body, "it is said what is not there"
            *_, good, refused = (after - before for before, after in pairwise(counts))
            assert refused < good, f"{path}: what it is about is made anew each time, but of the request nothing stays"
            assert (await post(app, path, [], "hers")).status in (401, 404), path


def test_the_routes_that_take_a_model_are_all_there() -> None:
    assert {"/v1/chat/completions", "/api/v1/generations", "/api/v1/summaries", "/api/v1/sessions"} <= set(NAMING)


async def test_where_no_model_is_for_bob_none_is_given_to_him_by_default(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, **settings_of(tmp_path, with_another=False)) as (app, services):
        ann, bob = (as_(token_of(services, name)) for name in ("ann", "bob"))
        asking = []
        for path in TAKING:
            before = (await kept(services))["generations"]
            await post(app, path, ann, None)
            if (await kept(services))["generations"] > before:
                asking.append(path)
        assert {"/chat", "/text_generations", "/getdoc/uploadfile", "/upload/image", "/api/v1/summaries"} <= set(asking)
        before = await kept(services)
        for path in asking:
            try:
                answer = await post(app, path, bob, None)
            except AssertionError as unmade:  # what it would be about needs an answer itself
                assert "no model" in str(unmade), path
            else:
                assert answer.status in (404, 503), (path, answer.body)
                assert b"model" in answer.body.lower()
        after = await kept(services)
        assert [after[each] - before[each] for each in ("generations", "contents", "documents", "images")] == [
            *(0, 0),
            *(sum(path.startswith(f"/api/v1/{each}/") for path in asking) for each in ("documents", "images")),
        ], "nothing but what was uploaded by itself, before anything was asked about it"
