"""Generations over HTTP: at once, as a job, listed, cancelled, erased; exactly what stands on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import time_machine

from asking import ask, client_of, kept, serving, token_of
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation
from loquent.ports.store import Replace
from loquent.web.edge import Edge
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

PATH = "/api/v1/generations"
PAST = "2026-01-31T12:00Z"  # where clocks are moved, it is to the past: ids never go back behind the latest


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[tuple[httpx2.AsyncClient, Edge, Services]]:
    async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
        yield client, app, services


Ours = tuple[httpx2.AsyncClient, Edge, Services]


async def over(client: httpx2.AsyncClient, id: str) -> dict[str, Any]:
    """A job once it has ended."""
    async with asyncio.timeout(20):
        while (found := (await client.get(f"{PATH}/{id}")).json())["status"] in ("pending", "processing"):
            await asyncio.sleep(0.02)
    return found


async def test_an_answer_has_exactly_these_fields(at: Ours) -> None:
    client, _, _ = at
    answer = await client.post(PATH, json={"prompt": "one two three", "max_tokens": 2, "temperature": 0.5, "seed": 7})
    said = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    times = [said.pop(name) for name in ("created_at", "started_at", "completed_at")]
    assert times == sorted(times)
    assert all(len(each) == 27 and each.endswith("Z") for each in times)
    assert said.pop("id").startswith("gen_")
    assert said == {
        "object": "generation",
        "kind": "text",
        "status": "completed",
        "model": "echo",
        "input": {"prompt": "one two three"},
        "output": "one two",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "estimated": False},
        "cost": 9,
        "answered_by": "echo",
        "error": None,
        "progress": None,
        "parameters": {"max_tokens": 2, "temperature": 0.5, "seed": 7},
        "surface": "api",
        "background": False,
        "attempts": 1,
    }


async def test_what_few_answers_have_is_told_where_it_is_there(at: Ours) -> None:
    client, _, services = at
    id = (await client.post(PATH, json={"prompt": "one"})).json()["id"]
    [record] = await services.store.get(Generation, id)
    tries = [{"model": "a", "engine": "x", "seconds": 0.1, "error": "unavailable"}, {"model": "b"}]
    details = {"tries": tries, "cache": {"key": "k", "hit": True}, "cached_tokens": 3, "reasoning_tokens": 4}
    await services.store.write(Replace(record, evolve(record, details=details)))
    shown = (await client.get(f"{PATH}/{id}")).json()
    [listed] = (await client.get(PATH)).json()["data"]
    [exported] = (await client.get("/api/v1/history/export")).text.splitlines()
    for said in (shown, listed, json.loads(exported)):
        assert (said["tries"], said["cached"], said["answered_by"]) == (tries, True, "echo")
        assert (said["usage"]["cached_tokens"], said["usage"]["reasoning_tokens"]) == (3, 4)


async def test_messages_are_answered_as_a_chat(at: Ours) -> None:
    client, _, _ = at
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello there"}]
    said = (await client.post(PATH, json={"messages": messages})).json()
    assert (said["kind"], said["output"], said["input"]) == ("chat", "hello there", {"messages": messages})


async def test_stop_and_response_format_are_kept_to(at: Ours) -> None:
    client, _, _ = at
    for stop in ("two", ["three", "two"]):
        said = (await client.post(PATH, json={"prompt": "one two three", "stop": stop})).json()
        assert (said["output"].strip(), said["finish_reason"]) == ("one", "stop")
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 4}}, "required": ["a"]}
    wish = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    said = (await client.post(PATH, json={"prompt": "x", "response_format": wish})).json()
    assert said["output"] == '{"a": 4}'


async def test_a_job_is_accepted_with_its_place_and_runs_to_its_end(at: Ours) -> None:
    client, _, _ = at
    answer = await client.post(PATH, json={"prompt": "one two", "background": True})
    said = answer.json()
    assert (answer.status_code, said["status"], said["output"], said["usage"]) == (202, "pending", "", None)
    assert answer.headers["location"] == f"{PATH}/{said['id']}"
    ended = await over(client, said["id"])
    assert (ended["status"], ended["output"], ended["background"]) == ("completed", "one two", True)
    assert (await client.get(answer.headers["location"])).json() == ended


async def test_a_job_that_fails_says_why(at: Ours) -> None:
    client, _, _ = at
    id = (await client.post(PATH, json={"prompt": "[fail] x", "background": True})).json()["id"]
    ended = await over(client, id)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "engine_failed")


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("[fail] x", 502, "engine_failed"),
        ("[cut 1] one two", 502, "engine_failed"),
        ("[away] x", 503, "unavailable"),
        ("[busy 2] x", 503, "engine_busy"),
    ],
)
async def test_an_engines_fault_is_a_status_and_on_the_record(at: Ours, prompt: str, status: int, code: str) -> None:
    client, _, _ = at
    answer = await client.post(PATH, json={"prompt": prompt})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    if code == "engine_busy":
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("2", "2000")
    [listed] = (await client.get(PATH)).json()["data"]
    assert (listed["status"], listed["error"]["code"]) == ("failed", code)


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        ({"prompt": "x", "model": "gpt-9"}, 404, "gpt-9"),
        ({"messages": [{"role": "user", "content": "x"}], "model": "prompt-only"}, 422, "prompt-only"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 422, "either"),
        ({}, 422, "either"),
        ({"prompt": ""}, 422, "prompt"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 422, "messages.0.role"),
        ({"prompt": "x", "stream": True, "background": True}, 422, "stream"),
        ({"prompt": "x", "max_tokens": 0}, 422, "max_tokens"),
        ({"prompt": "x", "temperature": 2.1}, 422, "temperature"),
        ({"prompt": "x", "top_p": -0.1}, 422, "top_p"),
        ({"prompt": "x", "stop": ["a"] * 5}, 422, "stop"),
        ({"prompt": "x", "response_format": {"type": "poem"}}, 422, "response_format"),
        ({"prompt": "word " * 2000}, 422, "context"),
    ],
)
async def test_what_cannot_be_done_as_asked_is_named(at: Ours, body: dict[str, Any], status: int, names: str) -> None:
    client, _, services = at
    answer = await client.post(PATH, json=body)
    assert answer.status_code == status
    assert names in answer.json()["detail"]
    if names not in ("response_format", "context"):  # the engine alone knows those
        assert (await kept(services))["generations"] == 0


async def test_pages_walk_through_all_once_newest_first(at: Ours) -> None:
    client, _, _ = at
    made = [(await client.post(PATH, json={"prompt": f"number {n}"})).json()["id"] for n in range(7)]
    seen, after = [], ""
    while True:
        page = (await client.get(f"{PATH}?limit=3{after}")).json()
        assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
        ids = [each["id"] for each in page["data"]]
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", ids[0], ids[-1])
        seen += ids
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == made[::-1]
    assert "input" not in page["data"][0]
    assert page["data"][0]["input_preview"] == "number 0"


async def test_an_empty_page_has_no_ends(at: Ours) -> None:
    client, _, _ = at
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await client.get(PATH)).json() == empty


async def test_lists_are_narrowed_by_kind_status_model_and_time(at: Ours) -> None:
    client, _, _ = at
    text = (await client.post(PATH, json={"prompt": "x"})).json()
    chat = (await client.post(PATH, json={"messages": [{"role": "user", "content": "x"}]})).json()
    other = (await client.post(PATH, json={"prompt": "x", "model": "prompt-only"})).json()
    await client.post(PATH, json={"prompt": "[fail] x"})

    async def ids_of(**query: str) -> list[str]:
        return [each["id"] for each in (await client.get(PATH, params=query)).json()["data"]]

    assert await ids_of(kind="chat") == [chat["id"]]
    assert await ids_of(status="completed") == [other["id"], chat["id"], text["id"]]
    assert await ids_of(status="completed", kind="text", model="echo") == [text["id"]]
    assert await ids_of(model="prompt-only") == [other["id"]]
    assert await ids_of(model="unknown") == []
    assert await ids_of(created_before=chat["created_at"]) == [text["id"]]
    assert text["id"] not in await ids_of(created_after=chat["created_at"])
    assert await ids_of(created_after="2999-01-01") == []


async def test_only_what_is_over_is_erased_and_then_it_is_gone(at: Ours) -> None:
    client, _, services = at
    id = (await client.post(PATH, json={"prompt": "[hang] x", "background": True})).json()["id"]
    refused = await client.delete(f"{PATH}/{id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    cancelled = await client.post(f"{PATH}/{id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (await client.post(f"{PATH}/{id}/cancel")).json() == cancelled.json(), "cancelling again changes nothing"
    gone = await client.delete(f"{PATH}/{id}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await client.get(f"{PATH}/{id}")).status_code == 404
    assert (await client.delete(f"{PATH}/{id}")).status_code == 404
    found = await kept(services)
    assert (found["generations"], found["contents"]) == (0, 0)


async def test_hanging_up_on_a_plain_call_frees_the_engine_and_keeps_the_record(at: Ours) -> None:
    _, app, services = at
    headers = [("content-type", "application/json")]
    async with asyncio.timeout(10):
        body = b'{"prompt": "[hang] x"}'
        answer = await ask(app, "POST", PATH, headers=headers, body=[body], leaves=True)
        assert answer.status == 0
        while services.runner.lives:
            await asyncio.sleep(0.01)
    found = await kept(services)
    assert (found["generations"], found["contents"]) == (1, 1)


async def test_over_the_rate_is_429_and_waiting_as_told_succeeds(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_LIMIT_GENERATIONS="2/minute") as (app, services):
        with time_machine.travel(PAST, tick=False) as clock:
            async with client_of(app, token_of(services, "ann")) as client:
                for left in ("1", "0"):
                    answer = await client.post(PATH, json={"prompt": "x"})
                    assert answer.headers["x-ratelimit-limit-requests"] == "2"
                    assert answer.headers["x-ratelimit-remaining-requests"] == left
                    assert answer.headers["ratelimit-policy"] == '"requests";q=2;w=60'
                    assert answer.headers["ratelimit"] == f'"requests";r={left};t=60'
                    assert answer.headers["x-ratelimit-reset-requests"] == "1m0s"
                    clock.shift(0.25)
                refused = await client.post(PATH, json={"prompt": "x"})
                assert refused.status_code == 429
                assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("60", "59500")
                assert refused.json()["code"] == "rate_limited"
                clock.shift(59.499)
                assert (await client.post(PATH, json={"prompt": "x"})).status_code == 429
                clock.shift(0.001)
                assert (await client.post(PATH, json={"prompt": "x"})).status_code == 200


async def test_a_server_that_leaves_serves_on_is_not_ready_and_keeps_no_connection(at: Ours) -> None:
    client, app, services = at
    assert "connection" not in (await client.get(PATH)).headers
    app.leave()
    await services.leave()
    served = await client.post(PATH, json={"prompt": "x"})
    assert (served.status_code, served.headers["connection"]) == (200, "close")
    assert (await client.get("/api/v1/health/ready")).status_code == 503
    assert (await client.get("/api/v1/health/live")).status_code == 200


async def test_a_server_that_stops_takes_no_new_work(at: Ours) -> None:
    client, app, services = at
    app.is_stopping = True
    refused = await client.post(PATH, json={"prompt": "x"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert (await client.get(PATH)).status_code == 200
    assert (await kept(services))["generations"] == 0
