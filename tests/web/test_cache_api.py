"""Kept answers on the wire: how one is asked for or refused, and the header that says what came of it."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

pytestmark = pytest.mark.anyio
OURS, CHAT, COMPLETION = "/api/v1/generations", "/v1/chat/completions", "/v1/completions"
HEADER = "x-loquent-cache"
MESSAGES = [{"role": "user", "content": "one two three"}]
BODIES: dict[str, dict[str, Any]] = {
    OURS: {"messages": MESSAGES},
    CHAT: {"model": "echo", "messages": MESSAGES},
    COMPLETION: {"model": "echo", "prompt": "one two three"},
}


async def said(client: httpx2.AsyncClient, path: str, wish: str | None = None, **more: Any) -> str | None:
    """What the header says of an answer; ``wish``: on or off, as that surface takes it."""
    body, headers = {**BODIES[path], **more}, {}
    if wish and path == OURS:
        body["cache"] = wish == "on"
    elif wish:
        headers[HEADER] = wish
    answer = await client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert "three" in answer.text
    header: str | None = answer.headers.get(HEADER)
    return header


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", BODIES)
async def test_the_header_says_what_came_of_it(client: httpx2.AsyncClient, path: str, stream: bool) -> None:
    asked = {"temperature": 0, "stream": stream}
    assert [await said(client, path, **asked) for _ in range(3)] == ["miss", "hit", "hit"]
    assert await said(client, path, temperature=0, stream=not stream) == "hit"


@pytest.mark.parametrize("path", BODIES)
async def test_a_caller_asks_for_it_or_refuses_it(client: httpx2.AsyncClient, path: str) -> None:
    assert [await said(client, path, temperature=0.7) for _ in range(2)] == [None, None]
    assert [await said(client, path, "on", temperature=0.7) for _ in range(2)] == ["miss", "hit"]
    assert [await said(client, path, "off", temperature=0) for _ in range(2)] == [None, None]
    assert await said(client, path, temperature=0) == "miss"


async def test_both_surfaces_share_what_is_the_same(client: httpx2.AsyncClient) -> None:
    assert await said(client, CHAT, temperature=0) == "miss"
    assert await said(client, OURS, temperature=0) == "hit"


@pytest.mark.parametrize("path", BODIES)
async def test_off_says_nothing(serving: Any, path: str) -> None:
    async with serving(LOQUENT_CACHE="off") as client:
        assert [await said(client, path, "on", temperature=0) for _ in range(2)] == [None, None]


@pytest.mark.parametrize("value", ["", "yes", "on, off", "\u00e9"])
async def test_another_wish_is_refused(client: httpx2.AsyncClient, value: str) -> None:
    for path in (CHAT, COMPLETION):
        answer = await client.post(path, json=BODIES[path], headers={HEADER: value.encode("latin-1")})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "X-Loquent-Cache"
    answer = await client.post(OURS, json={**BODIES[OURS], "cache": value})
    assert answer.status_code == 422


async def test_the_kept_answer_is_the_same_on_the_wire_but_for_its_id_and_its_cost(client: httpx2.AsyncClient) -> None:
    first, second = [
        (await client.post(CHAT, json={**BODIES[CHAT], "temperature": 0}, headers={HEADER: "on"})).json()
        for _ in range(2)
    ]
    assert first.pop("id") != second.pop("id")
    assert {**first, "created": 0} == {**second, "created": 0}
    made = (await client.get(OURS)).json()["data"]
    assert [each["cached"] for each in made] == [True, False]
    assert [each["answered_by"] for each in made] == ["echo", "echo"]


async def test_a_stream_of_a_kept_answer_is_whole(client: httpx2.AsyncClient) -> None:
    asked = {**BODIES[CHAT], "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    texts, ends = [], []
    for _ in range(2):
        answer = await client.post(CHAT, json=asked)
        *events, last = [line[6:] for line in answer.text.split("\n\n") if line]
        assert last == "[DONE]"
        read = [json.loads(each) for each in events]
        choices = [choice for each in read for choice in each["choices"]]
        texts.append("".join(choice["delta"].get("content") or "" for choice in choices))
        ends.append(([choice["finish_reason"] for choice in choices][-1], read[-1]["usage"]["total_tokens"]))
        assert choices[0]["delta"]["role"] == "assistant"
        assert len({each["id"] for each in read}) == 1
    assert texts == ["one two three"] * 2
    assert ends[0] == ends[1]


async def test_a_job_that_wants_none_and_one_that_does(client: httpx2.AsyncClient) -> None:
    for cache in (True, False):
        answer = await client.post(OURS, json={**BODIES[OURS], "background": True, "cache": cache})
        assert answer.status_code == 202
        place = answer.headers["location"]
        async with client.stream("GET", f"{place}/events") as events:
            await events.aread()
        made = (await client.get(place)).json()
        assert made["status"] == "completed"
        assert made.get("cached") == (False if cache else None)


async def test_health_tells_of_it(client: httpx2.AsyncClient, serving: Any) -> None:
    checks = (await client.get("/api/v1/health/detailed")).json()["checks"]
    assert checks["cache"] == "ok"
    async with serving(LOQUENT_CACHE="off") as without:
        assert "cache" not in (await without.get("/api/v1/health/detailed")).json()["checks"]
    async with serving(LOQUENT_CACHE="redis://127.0.0.1:1/0") as away:
        detailed = (await away.get("/api/v1/health/detailed")).json()
        assert detailed["status"] == "degraded"
        assert "away" in detailed["checks"]["cache"]
        assert (await away.get("/api/v1/health/ready")).status_code == 200
        assert await said(away, CHAT, temperature=0) == "miss"
        page = (await away.get("/metrics")).text
        assert 'loquent_cache_faults_total{call="get"}' in page
        assert 'loquent_cached_answers_total{outcome="miss"}' in page
