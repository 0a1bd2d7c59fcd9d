"""An Idempotency-Key makes a POST safe to repeat: on every route that makes a generation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import time_machine

from asking import client_of, kept, serving, token_of
from loquent.wiring import Services
from surfaces import SAMPLES

pytestmark = pytest.mark.anyio

PAST = "2026-01-31T12:00Z"
PATHS = ("/api/v1/generations", "/api/v1/summaries", "/v1/chat/completions", "/v1/completions", "/v1/responses")
KEY = {"idempotency-key": "order 66"}
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
        yield client, services


def of(answer: httpx2.Response) -> dict[str, Any]:
    """What an answer says, without what a job's progress changes."""
    return {
        name: said for name, said in answer.json().items() if name in ("id", "object", "output", "choices", "usage")
    }


@pytest.mark.parametrize("path", PATHS)
async def test_the_same_again_is_the_same_answer_and_nothing_new(at: Ours, path: str) -> None:
    client, services = at
    first = await client.post(path, json=SAMPLES[path], headers=KEY)
    assert "idempotent-replayed" not in first.headers
    for spelling in (path, f"{path}/"):
        again = await client.post(spelling, json=SAMPLES[path], headers=KEY)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (first.status_code, "true")
        assert of(again) == of(first)
    assert (await kept(services))["generations"] == 1
    other = await client.post(path, json=SAMPLES[path], headers={"idempotency-key": "another"})
    assert other.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("path", PATHS)
async def test_another_body_with_the_key_is_refused(at: Ours, path: str) -> None:
    client, services = at
    await client.post(path, json=SAMPLES[path], headers=KEY)
    other = json.dumps(SAMPLES[path]).replace("e", "ee", 1).replace("ee", "e") + " "
    answer = await client.post(path, content=other, headers={**KEY, "content-type": "application/json"})
    said = answer.json()
    assert answer.status_code == (400 if path.startswith("/v1/") else 422)
    assert (said.get("code") or said["error"]["code"]) == "idempotency_mismatch"
    assert (await kept(services))["generations"] == 1


async def test_a_file_sent_again_is_one_summary_and_another_file_is_refused(at: Ours) -> None:
    client, services = at
    path, text = "/api/v1/summaries/files", SAMPLES["/api/v1/summaries"]["text"].encode()
    first, again = [await client.post(path, files={"file": ("a.txt", text)}, headers=KEY) for _ in range(2)]
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first.json()["id"], "true")
    for other in (
        {"files": {"file": ("a.txt", text + b".")}},
        {"files": {"file": ("a.txt", text)}, "data": {"length": "long"}},
    ):
        answer = await client.post(path, headers=KEY, **other)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert (await kept(services))["generations"] == 1


async def test_one_key_on_two_routes_is_two_keys(at: Ours) -> None:
    client, services = at
    for path in PATHS:
        answer = await client.post(path, json=SAMPLES[path], headers=KEY)
        assert "idempotent-replayed" not in answer.headers
    assert (await kept(services))["generations"] == len(PATHS)


async def test_while_the_first_runs_a_repeat_is_a_conflict(at: Ours) -> None:
    client, services = at
    body = {"prompt": "[slow 0.02] [words 500] x"}
    first = asyncio.create_task(client.post(PATHS[0], json=body, headers=KEY))
    async with asyncio.timeout(10):
        while not services.runner.lives:
            await asyncio.sleep(0.01)
    answer = await client.post(PATHS[0], json=body, headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (409, "still_running")
    [id] = services.runner.lives
    await client.post(f"{PATHS[0]}/{id}/cancel")
    assert (await first).json()["status"] == "cancelled"


async def test_a_repeated_job_is_one_job(at: Ours) -> None:
    client, services = at
    body = {"prompt": "one two", "background": True}
    answers = await asyncio.gather(*(client.post(PATHS[0], json=body, headers=KEY) for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    taken = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.json()["id"] for answer in taken}) == 1
    assert {answer.headers["location"] for answer in taken} == {f"{PATHS[0]}/{taken[0].json()['id']}"}
    assert (await kept(services))["generations"] == 1


async def test_a_repeat_of_a_stream_tells_the_same_text(at: Ours) -> None:
    client, services = at
    for path in ("/api/v1/generations", "/v1/chat/completions"):
        body = {**SAMPLES[path], "stream": True}
        first = await client.post(path, json=body, headers=KEY)
        again = await client.post(path, json=body, headers=KEY)
        assert again.headers["content-type"].startswith("text/event-stream")
        assert again.headers["idempotent-replayed"] == "true"
        for answer in (first, again):
            told = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            texts = [
                each.get("text") or (each.get("choices") or [{}])[0].get("delta", {}).get("content") for each in told
            ]
            assert "".join(text for text in texts if text) == "one two three"
    assert (await kept(services))["generations"] == 2


async def test_a_request_that_gave_no_answer_leaves_its_key_free(at: Ours) -> None:
    client, services = at
    for _ in range(2):
        assert (await client.post(PATHS[0], json={"prompt": "[busy 1] x"}, headers=KEY)).status_code == 503
    assert (await client.post(PATHS[0], json={"prompt": ""}, headers=KEY)).status_code == 422
    assert (await client.post(PATHS[0], json={"prompt": "fine"}, headers=KEY)).status_code == 200
    assert (await kept(services))["repeats"] == 1


async def test_a_repeat_costs_nothing_of_the_rate(tmp_path: Path) -> None:
    limit = {"LOQUENT_LIMIT_GENERATIONS": "1/minute"}
    async with serving(tmp_path, **limit) as (app, _), client_of(app) as client:
        statuses = [(await client.post(PATHS[0], json={"prompt": "x"}, headers=KEY)).status_code for _ in range(3)]
        assert statuses == [200, 200, 200]
        assert (await client.post(PATHS[0], json={"prompt": "x"})).status_code == 429


async def test_keys_hold_for_24_hours(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False) as (app, _), client_of(app) as client:
        with time_machine.travel(PAST, tick=False) as clock:
            first = await client.post(PATHS[0], json={"prompt": "x"}, headers=KEY)
            clock.shift(24 * 3600 - 1)
            again = await client.post(PATHS[0], json={"prompt": "x"}, headers=KEY)
            assert again.json()["id"] == first.json()["id"]
            clock.shift(1)
            later = await client.post(PATHS[0], json={"prompt": "x"}, headers=KEY)
            assert later.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "a\x7fb", "é\x85"], ids=["empty", "long", "tab", "DEL", "NEL"])
async def test_what_cannot_be_a_key_is_named(at: Ours, path: str, key: str) -> None:
    client, services = at
    headers = [("idempotency-key", key.encode("latin-1"))]
    answer = await client.post(path, json=SAMPLES[path], headers=headers)
    assert answer.status_code == (400 if path.startswith("/v1/") else 422)
    assert "Idempotency-Key" in answer.text
    assert (await kept(services))["generations"] == 0
