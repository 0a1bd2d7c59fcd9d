"""The textgen family's table, row by row, and what stands behind it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import time_machine
from families import Case, both, check

from asking import ask, client_of, kept, serving, token_of
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation
from loquent.domain.principals import DEFAULT_TENANT
from loquent.domain.records import RECORDS
from loquent.domain.users import User
from loquent.ports.store import Replace
from loquent.web.compat import text_generations
from loquent.web.errors import STATUS
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

DORA = {"username": "dora", "password": "a long enough one"}
PRESET = {"max_length": 50, "temperature": 0.5, "top_p": 0.9}
NEVER_SET_UP = '[[model]]\nname = "extractive"\nengine = "extractive"\nid = "extractive"\nabilities = ["summary"]\n'
OURS = re.compile(r"\[E0(1[1-9]|2\d)\] .+", re.DOTALL)
JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")


async def registered(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """Dora is there."""
    await client.post("/users", json=DORA)
    return {}


async def logged_in(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """Dora has a token."""
    await registered(client)
    token = (await client.post("/token", data=DORA)).json()["access_token"]
    return {"auth": f"Bearer {token}"}


async def asked_before(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """Dora has asked twice, and somebody else once."""
    known = await logged_in(client)
    for prompt in ("one two", "three four"):
        await client.post("/text_generations", json={"prompt": prompt}, headers={"authorization": known["auth"]})
    await client.post("/users", json={**DORA, "username": "emil"})
    other = (await client.post("/token", data={**DORA, "username": "emil"})).json()["access_token"]
    await client.post("/text_generations", json={"prompt": "emil's"}, headers={"authorization": f"Bearer {other}"})
    return known


def detail(said: str) -> dict[str, Any]:
    return {"detail": re.compile(said, re.DOTALL)}


AUTH = {"headers": {"authorization": "{auth}"}}
BAD = {"headers": {"authorization": "Bearer forged.token.here"}}
NO_AUTH = {"detail": "Not authenticated"}
BAD_AUTH = {"detail": "[E010] Invalid or expired token"}


def bad_preset(name: str, code: str, value: Any, shown: str) -> Case:
    """A PUT that fails by one value."""
    body = {**PRESET, name: value}
    said = detail(rf"\[{code}\] {name} .*{re.escape(shown)}.*")
    return Case("PUT /models", f"{name} {value!r}"[:60], 400, said, {**AUTH, "json": body}, before=logged_in)


CASES = [
    Case("POST /users", "new", 200, {"username": "dora"}, {"json": DORA}),
    Case(
        "POST /users", "taken", 400, {"detail": "[E008] User with username dora already exists"},
        {"json": DORA}, before=registered,
    ),
    Case("POST /users", "a short password", 422, detail(r"\[E012\] password.*"),
         {"json": {**DORA, "password": "short"}}),
    Case("POST /users", "an extra field", 422, detail(r"\[E012\] .*admin.*"), {"json": {**DORA, "admin": True}}),
    Case("POST /users", "no JSON", 422, detail(r"\[E012\] .+"),
         {"content": b"{", "headers": {"content-type": "application/json"}}),
    Case("POST /token", "right", 200, {"access_token": JWT, "token_type": "bearer"}, {"data": DORA}, before=registered),
    Case(
        "POST /token", "with the form's other fields", 200, {"access_token": JWT, "token_type": "bearer"},
        {"data": {**DORA, "grant_type": "password", "scope": "", "client_id": "x"}}, before=registered,
    ),
    Case("POST /token", "wrong password", 400, {"detail": "[E003] Incorrect username or password"},
         {"data": {**DORA, "password": "another long one"}}, before=registered),
    Case("POST /token", "nobody", 400, {"detail": "[E003] Incorrect username or password"}, {"data": DORA}),
    Case("POST /token", "nothing", 422, detail(r"\[E012\] username.*"),
         {"content": b"", "headers": {"content-type": "application/x-www-form-urlencoded"}}),
    Case("POST /token", "JSON", 415, detail(r"\[E019\] .+"), {"json": DORA}),
    Case(
        "PUT /models", "good", 200, {"name": "echo", "llm": "echo", "max_length": 50, "temperature": 0.5, "top_p": 0.9},
        {**AUTH, "json": PRESET}, before=logged_in,
    ),
    Case(
        "PUT /models", "at the bounds", 200,
        {"name": str, "llm": str, "max_length": 1, "temperature": 1.0, "top_p": 0.0},
        {**AUTH, "json": {"max_length": 1, "temperature": 1, "top_p": 0}}, before=logged_in,
    ),
    *(bad_preset("max_length", "E005", value, shown) for value, shown in (
        (0, "0"), (-1, "-1"), (1.5, "1.5"), (50.0, "50.0"), (True, "True"), ("50", "50"), (None, "None"), ([], "[]"),
        (2**63, str(2**63)),
    )),
    *(bad_preset("temperature", "E006", value, shown) for value, shown in (
        (0, "0"), (-0.1, "-0.1"), (1.01, "1.01"), (True, "True"), ("0.5", "0.5"), (None, "None"), ({}, "{}"),
    )),
    *(bad_preset("top_p", "E007", value, shown) for value, shown in (
        (-0.01, "-0.01"), (1.5, "1.5"), (False, "False"), ("1", "1"), (None, "None"),
    )),
    *(Case("PUT /models", f"no {name}", 400, detail(rf"\[{code}\] {name} is missing.*"),
           {**AUTH, "json": {key: value for key, value in PRESET.items() if key != name}}, before=logged_in)
      for name, code in (("max_length", "E005"), ("temperature", "E006"), ("top_p", "E007"))),
    *(Case("PUT /models", f"{name}: {text}"[:40], 400, detail(rf"\[{code}\] {name} .+"),
           {"content": f'{{"max_length": 5, "temperature": 1, "top_p": 1, "{name}": {text}}}'
            .replace(f'"{name}": {1 if name != "max_length" else 5}, ', "").encode(),
            "headers": {"authorization": "{auth}", "content-type": "application/json"}}, before=logged_in)
      for name, code in (("max_length", "E005"), ("temperature", "E006"), ("top_p", "E007"))
      for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5_000)),
    Case("PUT /models", "an extra field", 422, detail(r"\[E012\] top_k.*"),
         {**AUTH, "json": {**PRESET, "top_k": 1}}, before=logged_in),
    Case("PUT /models", "no object", 422, detail(r"\[E012\] .+"), {**AUTH, "json": [1]}, before=logged_in),
    Case("PUT /models", "no header", 401, NO_AUTH, {"json": PRESET}),
    Case("PUT /models", "bad token", 401, BAD_AUTH, {**BAD, "json": PRESET}),
    Case("PUT /models", "another scheme", 401, NO_AUTH,
         {"headers": {"authorization": "Basic ZG9yYTp4"}, "json": PRESET}),
    Case("POST /text_generations", "good", 200, {"prompt": "one two", "generated_text": re.compile("one two.+")},
         {**AUTH, "json": {"prompt": "one two"}}, before=logged_in),
    *(Case("POST /text_generations", f"blank {blank!r}", 400, {"detail": "[E004] Prompt cannot be empty"},
           {**AUTH, "json": {"prompt": blank}}, before=logged_in) for blank in ("", " ", "\n\t\u3000")),
    Case("POST /text_generations", "no prompt", 422, detail(r"\[E012\] prompt.*"),
         {**AUTH, "json": {}}, before=logged_in),
    Case("POST /text_generations", "a number", 422, detail(r"\[E012\] prompt.*"),
         {**AUTH, "json": {"prompt": 7}}, before=logged_in),
    Case("POST /text_generations", "10 MB", 413, detail(r"\[E018\] .+"),
         {**AUTH, "json": {"prompt": "x" * 10_000_000}}, before=logged_in),
    Case("POST /text_generations", "the model fails", 502, detail(r"\[E024\] .+"),
         {**AUTH, "json": {"prompt": "[fail] x"}}, before=logged_in),
    Case("POST /text_generations", "the model is away", 503, detail(r"\[E025\] .+"),
         {**AUTH, "json": {"prompt": "[away] x"}}, before=logged_in),
    Case("POST /text_generations", "no header", 401, NO_AUTH, {"json": {"prompt": "x"}}),
    Case("POST /text_generations", "bad token", 401, BAD_AUTH, {**BAD, "json": {"prompt": "x"}}),
    Case("GET /text_generations", "nothing yet", 200, [], AUTH, before=logged_in),
    Case("GET /text_generations", "one's own only, newest first", 200,
         [{"prompt": "three four", "generated_text": "three fourthree four"},
          {"prompt": "one two", "generated_text": "one twoone two"}], AUTH, before=asked_before),
    Case("GET /text_generations", "no header", 401, NO_AUTH),
    Case("GET /text_generations", "bad token", 401, BAD_AUTH, BAD),
]  # fmt: skip


@pytest.mark.parametrize(("case", "slash"), both(CASES), ids=lambda each: each.id if isinstance(each, Case) else each)
async def test_a_row_of_the_table_is_kept(tmp_path: Path, case: Case, slash: bool) -> None:
    async with serving(tmp_path) as (app, _), client_of(app) as client:
        answer = await check(client, case, slash)
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
        yield client, services


async def test_without_a_model_that_goes_on_from_prompts_the_configuration_is_not_found(tmp_path: Path) -> None:
    rows = tmp_path / "summaries.toml"
    rows.write_text(NEVER_SET_UP)
    environ = {"LOQUENT_MODELS": str(rows)}
    async with serving(tmp_path, **environ) as (app, services), client_of(app, token_of(services, "ann")) as client:
        for answer in (
            await client.post("/text_generations", json={"prompt": "x"}),
            await client.put("/models", json=PRESET),
        ):
            assert (answer.status_code, answer.json()) == (404, {"detail": "[E001] Model configuration not found"})


async def test_a_disabled_user_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        await registered(client)
        user = await services.store.find(User, "username", {"tenant": DEFAULT_TENANT, "username": "dora"})
        assert user is not None
        await services.store.write(Replace(user, evolve(user, is_active=False)))
        answer = await client.post("/token", data=DORA)
        assert (answer.status_code, answer.json()) == (400, {"detail": "[E009] User account is inactive"})


async def test_an_expired_token_is_told_as_a_bad_one(tmp_path: Path) -> None:
    with time_machine.travel("2026-01-31T12:00Z", tick=False) as clock:
        async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
            clock.shift(3599)
            assert (await client.get("/text_generations")).status_code == 200
            clock.shift(1)
            answer = await client.get("/text_generations")
            assert (answer.status_code, answer.json()) == (401, BAD_AUTH)


async def test_parameters_are_the_callers_own_and_hold_from_then_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, services):
        for name, length in (("ann", 5), ("bob", 7), ("ann", 6)):
            async with client_of(app, token_of(services, name)) as client:
                await client.put("/models", json={**PRESET, "max_length": length})
        expected = {"ann": 6, "bob": 7, "carol": text_generations.MAX_LENGTH}
        for name, length in expected.items():
            async with client_of(app, token_of(services, name)) as client:
                said = await client.post("/text_generations", json={"prompt": "a b c"})  # two tokens, as estimated
                id = said.headers["x-loquent-generation"]
                made = (await client.get(f"/api/v1/generations/{id}")).json()
                assert made["parameters"]["max_tokens"] == length - 2, name
                assert made["parameters"].get("temperature") == (None if name == "carol" else 0.5)


async def test_the_length_counts_the_prompt_and_leaves_one_token_at_least(at: Ours) -> None:
    client, _ = at
    await client.put("/models", json={**PRESET, "max_length": 6})
    for prompt, completion in (("a b c d", "a b c d"), ("a b c d e f", "a b c"), ("x" * 30, "x" * 30)):
        said = (await client.post("/text_generations", json={"prompt": prompt})).json()
        assert said == {"prompt": prompt, "generated_text": prompt + completion}
    said = (await client.post("/text_generations", json={"prompt": "long words " * 9})).json()
    assert said["generated_text"] == "long words " * 9 + "long", "one token, though the prompt is over it already"


async def test_the_models_context_bounds_the_length(at: Ours) -> None:
    client, _ = at
    await client.put("/models", json={**PRESET, "max_length": 2**62})
    answer = await client.post("/text_generations", json={"prompt": "a b c"})
    made = (await client.get(f"/api/v1/generations/{answer.headers['x-loquent-generation']}")).json()
    assert made["parameters"]["max_tokens"] == 1000 - 2, "of the test's echo, whose context is 1000"


async def test_two_changes_of_ones_parameters_at_once_are_both_taken(at: Ours) -> None:
    client, services = at
    lengths = range(1, 9)
    answers = await asyncio.gather(*(client.put("/models", json={**PRESET, "max_length": n}) for n in lengths))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert (await kept(services))["presets"] == 1


async def test_who_hangs_up_ends_the_work(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, services):
        headers = [("content-type", "application/json"), ("authorization", f"Bearer {token_of(services, 'ann')}")]
        async with asyncio.timeout(10):
            await ask(
                app,
                "POST",
                "/text_generations",
                headers=headers,
                body=b'{"prompt":"[slow 1] [words 60] x"}',
                leaves=True,
            )
            while services.runner.lives:
                await asyncio.sleep(0.01)
        order, within = "newest", {"tenant": "default", "owner": "usr_ann"}
        [made] = (await services.store.page(Generation, order, within, limit=2)).items
        assert (made.status, made.surface, RECORDS[Generation].scope) == ("cancelled", "textgen", "owner")
        async with client_of(app, token_of(services, "ann")) as client:
            assert (await client.get("/text_generations")).json() == [], "what was cut short is in the history only"


async def test_what_is_made_here_is_in_the_history_and_what_was_completed_elsewhere_is_listed_here(at: Ours) -> None:
    client, _ = at
    await client.post("/text_generations", json={"prompt": "made here"})
    await client.post("/v1/completions", json={"model": "echo", "prompt": "made there"})
    await client.post("/api/v1/generations", json={"prompt": "an answer, which goes on from nothing"})
    rows = (await client.get("/api/v1/generations")).json()["data"]
    assert [(row["kind"], row["surface"]) for row in rows] == [("text", "api"), ("text", "openai"), ("text", "textgen")]
    listed = (await client.get("/text_generations")).json()
    assert [row["prompt"] for row in listed] == ["made there", "made here"]
    assert all(row["generated_text"].startswith(row["prompt"]) for row in listed)


async def test_a_long_list_comes_whole(at: Ours) -> None:
    client, _ = at
    for number in range(203):  # more than are read at a time
        await client.post("/text_generations", json={"prompt": f"prompt {number}"})
    listed = (await client.get("/text_generations")).json()
    assert [row["prompt"] for row in listed] == [f"prompt {number}" for number in reversed(range(203))]


async def test_a_repeat_with_its_key_is_answered_from_the_record(at: Ours) -> None:
    client, services = at
    key = {"idempotency-key": "once"}
    answers = [await client.post("/text_generations", json={"prompt": "x"}, headers=key) for _ in range(2)]
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true"]
    assert answers[0].json() == answers[1].json()
    assert (await kept(services))["generations"] == 1


async def test_over_the_rate_is_said_in_the_familys_form_with_the_headers(tmp_path: Path) -> None:
    environ = {"LOQUENT_LIMIT_GENERATIONS": "1/minute", "LOQUENT_LIMIT_LOGINS": "1/minute"}
    async with serving(tmp_path, **environ) as (app, services), client_of(app, token_of(services, "ann")) as client:
        first = await client.post("/text_generations", json={"prompt": "x"})
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        over = await client.post("/text_generations", json={"prompt": "x"})
        await client.post("/users", json=DORA)
        tried = [await client.post("/users", json=DORA)]
        await client.post("/token", data=DORA)
        tried.append(await client.post("/token", data=DORA))
        for answer in (over, *tried):
            assert (answer.status_code, answer.json()["detail"][:7]) == (429, "[E020] ")
            assert 0 < int(answer.headers["retry-after"]) <= 60


async def test_every_other_error_has_a_code_of_ours(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, _), client_of(app) as client:
        for method, path, status in (
            ("GET", "/users", 405), ("DELETE", "/text_generations", 405), ("GET", "/models", 405),
            ("GET", "/users/1", 404), ("POST", "/text_generations/x", 404),
        ):  # fmt: skip
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert OURS.fullmatch(answer.json()["detail"]), answer.text
    assert set(STATUS.values()) - set(text_generations.CODES) == {401, 410}, "401 is the family's; nothing here ends"
    codes = list(text_generations.CODES.values())
    assert codes == [f"E{number:03}" for number in range(11, 11 + len(codes))]


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "echo"),
        ({"MODEL_NAME": "prompt-only"}, "prompt-only"),
        ({"LLM_ID": "echo"}, "echo"),
        ({"MODEL_NAME": "my-config", "LLM_ID": "gpt2"}, "echo"),
        ({"MODEL_NAME": "extractive"}, "echo"),
    ],
)
async def test_the_model_is_the_one_that_is_named_or_the_first_that_can(
    tmp_path: Path, environ: dict[str, str], name: str
) -> None:
    async with serving(tmp_path, **environ) as (app, services), client_of(app, token_of(services, "ann")) as client:
        said = (await client.put("/models", json=PRESET)).json()
        assert (said["name"], said["llm"]) == (name, "echo")
        answer = await client.post("/text_generations", json={"prompt": "x"})
        made = await client.get(f"/api/v1/generations/{answer.headers['x-loquent-generation']}")
        assert made.json()["model"] == name
