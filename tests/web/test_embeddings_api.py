"""Embeddings, on our own API and in OpenAI's words: vectors go out, and everything but them is on the record."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import JSON, ask, client_of, kept, serving, token_of
from loquent.domain.generations import Content
from loquent.wiring import Services
from scripted import Caller, listening

pytestmark = pytest.mark.anyio

OWN, OPENAI = "/api/v1/embeddings", "/v1/embeddings"
Ours = tuple[httpx2.AsyncClient, Services]
TEXTS = ["the old harbour", "the harbour", "something else"]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
        yield client, services


def body(path: str, **changed: Any) -> dict[str, Any]:
    return {**({"model": "echo"} if path == OPENAI else {}), "input": TEXTS, **changed}


async def vectors(client: httpx2.AsyncClient, path: str, **changed: Any) -> list[list[float]]:
    answer = await client.post(path, json=body(path, **changed))
    assert answer.status_code == 200, answer.text
    found = answer.json()["data"]
    assert [each["index"] for each in found] == list(range(len(found)))
    return [each["embedding"] for each in found]


async def test_an_answer_in_openais_words_is_exactly_this(at: Ours) -> None:
    client, _ = at
    answer = await client.post(OPENAI, json=body(OPENAI, input="one two", dimensions=1))
    assert answer.text == (
        '{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0]}],"model":"echo",'
        '"usage":{"prompt_tokens":2,"total_tokens":2}}'
    )


async def test_an_answer_of_our_own_is_exactly_this(at: Ours) -> None:
    client, _ = at
    answer = await client.post(OWN, json=body(OWN, input=["one two"], dimensions=1))
    assert re.sub("gen_[0-9a-f]{32}", "gen_ID", answer.text) == (
        '{"object":"list","data":[{"index":0,"embedding":[1.0]}],"model":"echo","usage":{"prompt_tokens":2,'
        '"completion_tokens":0,"total_tokens":2,"estimated":false},"cost":3,"id":"gen_ID"}'
    )
    assert answer.headers["x-loquent-generation"] == answer.json()["id"]


@pytest.mark.parametrize("path", [OWN, OPENAI])
async def test_texts_that_share_words_lie_near_each_other(at: Ours, path: str) -> None:
    client, _ = at
    one, near, far = await vectors(client, path)
    assert math.isclose(math.hypot(*one), 1, rel_tol=1e-6)
    assert sum(map(float.__mul__, one, near)) > 0.5 > abs(sum(map(float.__mul__, one, far)))
    assert await vectors(client, path, input=TEXTS[0]) == [one]
    assert {len(each) for each in await vectors(client, path, dimensions=7)} == {7}


async def test_in_base64_a_vector_is_the_same_in_numbers_of_32_bits(at: Ours) -> None:
    client, _ = at
    plain = await vectors(client, OPENAI, encoding_format="float")
    packed = await vectors(client, OPENAI, encoding_format="base64")
    for numbers, text in zip(plain, packed, strict=True):
        read = struct.unpack(f"<{len(numbers)}f", base64.b64decode(str(text)))
        assert all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(read, numbers, strict=True))


async def test_two_thousand_texts_come_back_in_their_order(at: Ours) -> None:
    client, _ = at
    texts = [f"number {n}" for n in range(2_048)]
    found = await vectors(client, OPENAI, input=texts, dimensions=8)
    assert len(found) == 2_048
    assert found[1_999] == (await vectors(client, OPENAI, input=texts[1_999], dimensions=8))[0]


async def test_each_call_is_on_the_record_without_its_vectors(at: Ours) -> None:
    client, services = at
    made = (await client.post(OWN, json=body(OWN))).json()
    await client.post(OPENAI, json=body(OPENAI, dimensions=9))
    await client.post("/api/v1/generations", json={"prompt": "one"})
    for path in ("/api/v1/generations", "/api/v1/history"):
        listed = (await client.get(f"{path}?kind=embedding")).json()["data"]
        assert [(each["kind"], each["surface"]) for each in listed] == [("embedding", "openai"), ("embedding", "api")]
        assert (listed[1]["id"], listed[1]["input_preview"], listed[1]["output_preview"]) == (made["id"], TEXTS[0], "")
        assert (listed[1]["usage"], listed[1]["cost"]) == (made["usage"], made["cost"]) and made["cost"] > 0
    found = (await client.get(f"/api/v1/generations/{made['id']}")).json()
    assert (found["input"], found["output"], found["status"]) == ({"texts": TEXTS}, "", "completed")
    assert [each["id"] for each in (await client.get("/api/v1/history?q=something")).json()["data"]][1:] == [made["id"]]
    [content] = await services.store.get(Content, made["id"])
    assert (content.output, content.more) == ("", None), "the vectors are nowhere"


@pytest.mark.parametrize("path", [OWN, OPENAI])
async def test_it_counts_against_the_callers_rate(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, LOQUENT_LIMIT_GENERATIONS="1/minute") as (app, services), client_of(app) as client:
        fine = await client.post(path, json=body(path))
        assert (fine.status_code, fine.headers["x-ratelimit-remaining-requests"]) == (200, "0")
        over = await client.post(path, json=body(path))
        assert over.status_code == 429
        assert 0 < int(over.headers["retry-after-ms"]) <= 60_000
        assert (await kept(services))["generations"] == 1


@pytest.mark.parametrize("path", [OWN, OPENAI])
async def test_a_key_for_repeats_is_left(at: Ours, path: str) -> None:
    client, services = at
    for _ in range(2):
        answer = await client.post(path, json=body(path), headers={"idempotency-key": "k"})
        assert (answer.status_code, "idempotent-replayed" in answer.headers) == (200, False)
    assert (await kept(services))["generations"] == 2


@pytest.mark.parametrize("path", [OWN, OPENAI])
@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["one", ""]}, "input"),
        ({"input": ["x"] * 2_049}, "2048"),
        ({"input": [1, 2, 3]}, "lists of tokens are not taken"),
        ({"input": [[1, 2], [3]]}, "lists of tokens are not taken"),
        ({"input": [True]}, "input"),
        ({"input": None}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 5_000}, "4096"),
        ({"input": "word " * 1_001}, "1000"),
        ({"model": "prompt-only"}, "not embeddings"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
    ids=lambda each: "" if isinstance(each, str) else str(each)[:40],
)
async def test_what_cannot_be_done_is_refused(at: Ours, path: str, changed: dict[str, Any], names: str) -> None:
    client, _ = at
    answer = await client.post(path, json=body(path, **changed))
    assert (answer.status_code, names in answer.text) == (400 if path == OPENAI else 422, True), answer.text


async def test_a_model_that_is_not_there_is_said_so(at: Ours) -> None:
    client, _ = at
    assert (await client.post(OPENAI, json=body(OPENAI, model="x"))).json()["error"]["code"] == "model_not_found"
    assert (await client.post(OWN, json=body(OWN, model="x"))).status_code == 404


async def test_where_no_model_makes_embeddings_the_setting_is_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.toml"
    rows.write_text('[[model]]\nname = "m"\nengine = "echo"\nid = "echo"\n')
    async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, _), client_of(app) as client:
        answer = await client.post(OWN, json=body(OWN))
        assert (answer.status_code, "LOQUENT_MODELS" in answer.json()["detail"]) == (503, True)


async def test_without_a_name_it_is_the_first_model_that_the_caller_may_use(tmp_path: Path) -> None:
    rows = tmp_path / "rows.toml"
    row = '[[model]]\nname = "{}"\nengine = "echo"\nid = "echo"\nabilities = ["embeddings"]\nusers = {}\n'
    rows.write_text(row.format("anns", '["ann"]') + row.format("all", "[]"))
    async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, services):
        for name, model in (("ann", "anns"), ("bob", "all")):
            async with client_of(app, token_of(services, name)) as client:
                assert (await client.post(OWN, json=body(OWN))).json()["model"] == model
                own = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
                assert own == [*(["anns"] if name == "ann" else []), "all", "extractive"]
                expected = 200 if name == "ann" else 404
                assert (await client.get("/v1/models/anns")).status_code == expected
                assert (await client.post(OPENAI, json=body(OPENAI, model="anns"))).status_code == expected


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [("[fail] x", 502, "engine_failed"), ("[away] x", 503, "unavailable"), ("[busy 2] x", 503, "engine_busy")],
)
async def test_an_engines_fault_is_on_the_record(at: Ours, prompt: str, status: int, code: str) -> None:
    client, _ = at
    answer = await client.post(OPENAI, json=body(OPENAI, input=["fine", prompt]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    [listed] = (await client.get("/api/v1/generations")).json()["data"]
    assert (listed["status"], listed["error"]["code"]) == ("failed", code)


@pytest.mark.parametrize("path", [OWN, OPENAI])
async def test_who_hangs_up_ends_it(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as (app, services):
        sent = json.dumps(body(path, input="[hang] x")).encode()
        async with asyncio.timeout(10):
            answer = await ask(app, "POST", path, headers=[JSON], body=sent, leaves=True)
            assert (answer.status, services.runner.lives) == (0, {})
        [record] = (await ask(app, "GET", "/api/v1/generations")).json()["data"]
        assert (record["status"], record["kind"]) == ("cancelled", "embedding")


async def test_one_that_is_cancelled_elsewhere_has_no_vectors(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, services):
        sent = json.dumps(body(OWN, input="[hang] x")).encode()
        asking = asyncio.create_task(ask(app, "POST", OWN, headers=[JSON], body=sent))
        async with asyncio.timeout(10):
            while not services.runner.lives:
                await asyncio.sleep(0.01)
            [id] = services.runner.lives
            services.runner.lives[id].stop("cancelled")
            answer = await asking
        assert (answer.status, answer.json()["code"]) == (409, "cancelled")


async def test_what_the_engine_does_not_count_is_estimated(tmp_path: Path) -> None:
    async def script(caller: Caller) -> None:
        data = [{"index": n, "embedding": [0.5, 0.25]} for n in range(len(caller.body["input"]))]
        await caller.answer(json.dumps({"data": data}).encode())

    rows = tmp_path / "rows.toml"
    async with listening(script) as (url, _):
        rows.write_text(
            f'[[model]]\nname = "m"\nengine = "openai"\nid = "m"\nurl = "{url}/v1"\nabilities = ["embeddings"]\n'
        )
        async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, _), client_of(app) as client:
            answer = (await client.post(OWN, json=body(OWN, input=["12345678", "1234"]))).json()
            assert (answer["usage"]["prompt_tokens"], answer["usage"]["estimated"]) == (3, True)
            assert [each["embedding"] for each in answer["data"]] == [[0.5, 0.25]] * 2
