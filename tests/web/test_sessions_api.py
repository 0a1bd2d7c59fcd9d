"""Sessions over HTTP: exactly what stands on the wire, streams, stops, repeats, hang-ups."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import time_machine

from asking import JSON, Answer, ask, client_of, kept, serving, token_of
from loquent.web import sse
from loquent.web.edge import Edge
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

PATH = "/api/v1/sessions"
PAST = "2026-01-31T12:00Z"
SLOW = "[slow 0.01] [words 5000] word"
Ours = tuple[httpx2.AsyncClient, Edge, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
        yield client, app, services


@asynccontextmanager
async def as_anybody(app: Edge) -> AsyncIterator[tuple[httpx2.AsyncClient, Any]]:
    """A client without a token, and the clock: standing still, in the past, where tokens of today are not good."""
    async with client_of(app) as client:
        with time_machine.travel(PAST, tick=False) as clock:
            yield client, clock


async def begun(client: httpx2.AsyncClient, **body: Any) -> str:
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 201
    return str(answer.json()["id"])


async def say(client: httpx2.AsyncClient, id: str, message: str, **more: Any) -> dict[str, Any]:
    answer = await client.post(f"{PATH}/{id}/turns", json={"message": message, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def turns(client: httpx2.AsyncClient, id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"{PATH}/{id}/turns?limit=100")).json()["data"]
    return found


async def raw(services: Services, app: Edge, target: str, body: dict[str, Any], **more: Any) -> Answer:
    """Asked without a client in between, so that it can hang up."""
    headers = [JSON, ("authorization", f"Bearer {token_of(services, 'ann')}")]
    async with asyncio.timeout(20):
        return await ask(app, "POST", f"{PATH}/{target}", headers=headers, body=json.dumps(body).encode(), **more)


def events(answer: Answer) -> list[tuple[str, Any]]:
    """The events of a stream, without comments."""
    found = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def until_lives(services: Services, number: int) -> None:
    async with asyncio.timeout(10):
        while len(services.runner.lives) != number:
            await asyncio.sleep(0.005)


async def test_a_session_has_exactly_these_fields(at: Ours) -> None:
    _, app, _ = at
    async with as_anybody(app) as (client, clock):
        answer = await client.post(PATH, json={"title": "Boats", "instructions": "Be brief.", "model": "echo"})
        id = answer.json()["id"]
        assert (answer.status_code, answer.headers["location"]) == (201, f"{PATH}/{id}")
        expected = {
            "id": id,
            "object": "session",
            "title": "Boats",
            "instructions": "Be brief.",
            "model": "echo",
            "turns": 0,
            "surface": "api",
            "expired": False,
            "created_at": "2026-01-31T12:00:00.000000Z",
            "last_active_at": "2026-01-31T12:00:00.000000Z",
            "expires_at": "2026-01-31T12:30:00.000000Z",
        }
        assert answer.json() == expected
        clock.shift(30 * 60)
        later = (await client.get(f"{PATH}/{id}")).json()
        assert later == {**expected, "expired": True}


async def test_a_turn_has_exactly_these_fields(at: Ours) -> None:
    client, _, _ = at
    id = await begun(client)
    answer = await client.post(f"{PATH}/{id}/turns", json={"message": "one two three", "max_tokens": 2, "seed": 7})
    said = answer.json()
    assert (answer.status_code, answer.headers["x-loquent-generation"]) == (200, said["id"])
    assert [said.pop(name)[-1] for name in ("created_at", "started_at", "completed_at")] == ["Z"] * 3
    assert said == {
        "id": said["id"],
        "object": "turn",
        "status": "completed",
        "model": "echo",
        "message": "one two three",
        "answer": "one two",
        "cut": False,
        "finish_reason": "length",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "estimated": False},
        "session": id,
        "turn": 1,
        "turns_left_out": 0,
        "cost": 9,
        "answered_by": "echo",
        "error": None,
        "progress": None,
        "parameters": {"max_tokens": 2, "seed": 7},
        "surface": "api",
        "background": False,
        "attempts": 1,
    }
    generation = (await client.get(f"/api/v1/generations/{said['id']}")).json()
    assert (generation["kind"], generation["input"]) == ("chat", {"message": "one two three"})
    assert [generation[name] for name in ("session", "turn", "turns_left_out")] == [id, 1, 0]
    plain = (await client.post("/api/v1/generations", json={"prompt": "x"})).json()
    assert not {"session", "turn", "turns_left_out"} & set(plain), "what is no turn says nothing of turns"


async def test_a_turn_is_streamed_and_ends_with_the_whole_of_it(at: Ours) -> None:
    client, app, services = at
    id = await begun(client)
    answer = await raw(services, app, f"{id}/turns", {"message": "one two three", "stream": True})
    assert (answer.status, answer.header("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert answer.header("x-ratelimit-limit-requests")
    *deltas, (name, done) = events(answer)
    assert deltas == [("delta", {"text": text}) for text in ("one", " two", " three")]
    assert (name, done) == ("done", (await turns(client, id))[0])
    assert done["answer"] == "one two three"


async def test_a_fault_in_a_stream_is_told_as_everywhere(at: Ours) -> None:
    client, app, services = at
    id = await begun(client)
    before = await raw(services, app, f"{id}/turns", {"message": "[fail] x", "stream": True})
    assert (before.status, before.header("content-type")) == (502, "application/problem+json")
    behind = await raw(services, app, f"{id}/turns", {"message": "[cut 2] one two three", "stream": True})
    *_, (name, problem) = events(behind)
    assert (behind.status, name, problem["status"], problem["code"]) == (200, "error", 502, "engine_failed")
    failed, cut = await turns(client, id)
    assert (failed["status"], failed["answer"], failed["cut"]) == ("failed", "", False)
    assert (cut["status"], cut["answer"], cut["cut"]) == ("failed", "one two", True)
    assert (await say(client, id, "now"))["usage"]["prompt_tokens"] == 5 + 2 + 1, "a cut answer goes along"


@pytest.mark.parametrize("stream", [True, False])
async def test_hanging_up_ends_the_answer_and_keeps_what_there_is(at: Ours, stream: bool) -> None:
    client, app, services = at
    id = await begun(client)
    body = {"message": SLOW.replace("0.01", "0.002"), "stream": stream}
    if stream:
        answer = await raw(services, app, f"{id}/turns", body, seen=lambda piece: b"word" in piece)
        assert not answer.is_whole
    else:
        answer = await raw(services, app, f"{id}/turns", body, leaves=True)
        assert (answer.status, answer.pieces) == (0, [])
    await until_lives(services, 0)
    [turn] = await turns(client, id)
    assert (turn["status"], turn["finish_reason"], turn["cut"]) == ("cancelled", "cancelled", True)
    assert turn["answer"].startswith("word")


async def test_a_caller_who_hangs_up_is_no_fault_in_the_log(at: Ours, caplog: pytest.LogCaptureFixture) -> None:
    client, app, services = at
    id = await begun(client)
    for body in ({"message": "[hang] x"}, {"message": "[hang] x", "stream": True}):
        await raw(services, app, f"{id}/turns", body, leaves=True)
        await raw(services, app, f"{id}/regenerate", {"stream": body.get("stream", False)}, leaves=True)
    await until_lives(services, 0)
    assert [each for each in caplog.records if each.levelname in ("ERROR", "CRITICAL")] == []


async def test_many_who_hang_up_while_they_wait_leave_nothing_behind(at: Ours) -> None:
    client, app, services = at
    id = await begun(client)
    first = asyncio.create_task(raw(services, app, f"{id}/turns", {"message": SLOW}))
    await until_lives(services, 1)
    await asyncio.gather(*(raw(services, app, f"{id}/turns", {"message": "x"}, leaves=True) for _ in range(20)))
    await until_lives(services, 1)
    stopped = (await client.post(f"{PATH}/{id}/stop")).json()["data"]
    assert [each["turn"] for each in stopped] == [1]
    assert (await first).json()["cut"]
    found = await turns(client, id)
    assert [each["status"] for each in found] == ["cancelled"] * 21
    assert (await say(client, id, "now"))["turns_left_out"] == 20


async def test_while_one_waits_for_the_turn_before_a_stream_is_kept_alive(
    at: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, app, services = at
    monkeypatch.setattr(sse, "QUIET", 0.02)
    id = await begun(client)
    first = asyncio.create_task(raw(services, app, f"{id}/turns", {"message": "[slow 0.05] a b c d"}))
    await until_lives(services, 1)
    second = await raw(services, app, f"{id}/turns", {"message": "e", "stream": True})
    assert second.body.startswith(b": still here\n\n")
    assert events(second)[-1][1]["usage"]["prompt_tokens"] == 6 + 4 + 1
    assert (await first).json()["answer"] == "a b c d"


async def test_a_stop_keeps_what_there_is_and_marks_it(at: Ours) -> None:
    client, app, services = at
    id = await begun(client)
    assert (await client.post(f"{PATH}/{id}/stop")).json()["data"] == []
    running = asyncio.create_task(raw(services, app, f"{id}/turns", {"message": SLOW}))
    await until_lives(services, 1)
    async with asyncio.timeout(10):
        while not next(iter(services.runner.lives.values())).text:
            await asyncio.sleep(0.01)
    answer = (await client.post(f"{PATH}/{id}/stop")).json()
    [stopped] = answer["data"]
    assert (answer["object"], answer["first_id"], answer["has_more"]) == ("list", stopped["id"], False)
    assert (stopped["status"], stopped["cut"], stopped["answer"][:4]) == ("cancelled", True, "word")
    told = (await running).json()
    assert (told["status"], told["answer"]) == ("cancelled", stopped["answer"])
    assert (await turns(client, id)) == [stopped]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_last_answer_is_made_anew(at: Ours, stream: bool) -> None:
    client, app, services = at
    id = await begun(client)
    assert (await client.post(f"{PATH}/{id}/regenerate", json={})).status_code == 409
    first = await say(client, id, "one two three", max_tokens=2)
    answer = await raw(services, app, f"{id}/regenerate", {"max_tokens": 1, "stream": stream})
    again = events(answer)[-1][1] if stream else answer.json()
    assert (again["turn"], again["message"], again["answer"]) == (1, "one two three", "one")
    assert await turns(client, id) == [again]
    old = (await client.get(f"/api/v1/generations/{first['id']}")).json()
    assert (old["output"], old["session"], "turn" in old) == ("one two", id, False)


async def test_a_job_answers_later_and_is_a_turn_like_any(at: Ours) -> None:
    client, _, _ = at
    id = await begun(client)
    body = {"message": "one two", "background": True}
    answer = await client.post(f"{PATH}/{id}/turns", json=body)
    made = answer.json()
    assert (answer.status_code, made["status"], made["turn"]) == (202, "pending", 1)
    assert answer.headers["location"] == f"/api/v1/generations/{made['id']}"
    assert (await say(client, id, "three"))["usage"]["prompt_tokens"] == 5, "who speaks next waits for it"
    assert [each["answer"] for each in await turns(client, id)] == ["one two", "three"]
    refused = await client.post(f"{PATH}/{id}/turns", json={**body, "stream": True})
    assert refused.status_code == 422


async def test_a_message_with_the_same_key_is_taken_once(at: Ours) -> None:
    client, _, services = at
    id = await begun(client)
    key, body = {"idempotency-key": "once"}, {"message": "one"}
    first = await client.post(f"{PATH}/{id}/turns", json=body, headers=key)
    for stream in (False, True):
        streamed = {**body, "stream": True} if stream else body
        again = await client.post(f"{PATH}/{id}/turns/", json=streamed, headers=key)
        if stream:
            assert again.status_code == 422, "another body"
        else:
            assert (again.headers["idempotent-replayed"], again.json()) == ("true", first.json())
    both = [client.post(f"{PATH}/{id}/turns", json={"message": "x"}, headers={"idempotency-key": "two"}) for _ in "12"]
    statuses = sorted(each.status_code for each in await asyncio.gather(*both))
    assert statuses in ([200, 200], [200, 409])
    assert len(await turns(client, id)) == 2
    assert (await kept(services))["generations"] == 2


async def test_two_messages_at_once_are_taken_in_order(at: Ours) -> None:
    client, _, _ = at
    id = await begun(client)
    done = await asyncio.gather(*(say(client, id, f"[slow 0.01] {word} b c") for word in ("x", "y")))
    first, second = sorted(done, key=lambda each: each["turn"])
    assert (first["usage"]["prompt_tokens"], second["usage"]["prompt_tokens"]) == (5, 5 + 3 + 5)
    assert first["completed_at"] <= second["completed_at"]


async def test_lists_have_pages_both_ways(at: Ours) -> None:
    client, _, _ = at
    made = [await begun(client, title=str(n)) for n in range(3)]
    for n in range(3):
        await say(client, made[0], str(n))
    page = (await client.get(f"{PATH}?limit=2")).json()
    assert [each["id"] for each in page["data"]] == [made[0], made[2]], "the one last spoken in comes first"
    assert [page[name] for name in ("object", "first_id", "last_id", "has_more")] == ["list", made[0], made[2], True]
    rest = (await client.get(f"{PATH}?limit=2&after={page['last_id']}")).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([made[1]], False)
    for order, expected in (("asc", "012"), ("desc", "210")):
        first = (await client.get(f"{PATH}/{made[0]}/turns?limit=2&order={order}")).json()
        then = (await client.get(f"{PATH}/{made[0]}/turns?limit=2&order={order}&after={first['last_id']}")).json()
        assert "".join(each["message"] for each in (*first["data"], *then["data"])) == expected
        assert (first["has_more"], then["has_more"]) == (True, False)
    assert (await client.get(f"{PATH}/{made[1]}/turns")).json()["data"] == []
    for query in (f"{PATH}?after=ses_{'0' * 32}", f"{PATH}/{made[0]}/turns?after=gen_{'0' * 32}"):
        answer = await client.get(query)
        assert (answer.status_code, answer.json()["field"]) == (422, "after")


async def test_one_can_be_renamed_and_erased(at: Ours) -> None:
    client, app, services = at
    id = await begun(client)
    assert (await say(client, id, "Hello there"))["turn"] == 1
    assert (await client.get(f"{PATH}/{id}")).json()["title"] == "Hello there"
    renamed = await client.patch(f"{PATH}/{id}", json={"title": "Ships"})
    assert (renamed.status_code, renamed.json()["title"], renamed.json()["turns"]) == (200, "Ships", 1)
    for body in (
        {},
        {"title": ""},
        {"title": " "},
        {"title": "x" * 201},
        {"title": 7},
        {"title": "x", "model": "echo"},
    ):
        assert (await client.patch(f"{PATH}/{id}", json=body)).status_code == 422, body
    running = asyncio.create_task(raw(services, app, f"{id}/turns", {"message": SLOW}))
    await until_lives(services, 1)
    assert (await client.delete(f"{PATH}/{id}")).status_code == 409
    await client.post(f"{PATH}/{id}/stop")
    await running
    assert (await client.delete(f"{PATH}/{id}")).status_code == 204
    assert (await client.get(f"{PATH}/{id}")).status_code == 404
    assert (await client.post(f"{PATH}/{id}/turns", json={"message": "x"})).status_code == 404
    found = await kept(services)
    assert (found["generations"], found["contents"], found["sessions"]) == (0, 0, 0)


async def test_an_expired_session_can_be_read_renamed_and_erased_but_not_spoken_in(at: Ours) -> None:
    _, app, _ = at
    async with as_anybody(app) as (client, clock):
        id = await begun(client)
        await say(client, id, "one")
        clock.shift(30 * 60 - 1)
        await say(client, id, "two")
        clock.shift(30 * 60)
        for target, body in (("turns", {"message": "three"}), ("regenerate", {})):
            gone = await client.post(f"{PATH}/{id}/{target}", json=body)
            assert (gone.status_code, gone.json()["code"], "30 minutes" in gone.json()["detail"]) == (410, "gone", True)
        assert len(await turns(client, id)) == 2
        assert (await client.patch(f"{PATH}/{id}", json={"title": "Old"})).json()["expired"] is True
        assert (await client.delete(f"{PATH}/{id}")).status_code == 204


async def test_a_sixth_message_in_a_minute_is_refused_and_answered_after_retry_after(tmp_path: Path) -> None:
    few = {"LOQUENT_LIMIT_MESSAGES": "5/minute"}
    async with serving(tmp_path, **few) as (app, services):
        async with as_anybody(app) as (client, clock):
            id = await begun(client)
            for _ in range(5):
                await say(client, id, "word")
                clock.shift(2)
            path, body = f"{PATH}/{id}/turns", {"message": "word"}
            refused = await client.post(path, json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "50")
            assert (await client.post(f"{PATH}/{id}/regenerate", json={})).status_code == 429, "it counts as one"
            clock.shift(49)
            assert (await client.post(path, json=body)).status_code == 429
            clock.shift(1)
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, "0")
        assert (await kept(services))["generations"] == 6


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"message": ""}, "message"),
        ({"message": " \n\t"}, "message"),
        ({"message": 7}, "message"),
        ({"message": ["x"]}, "message"),
        ({"message": None}, "message"),
        ({}, "message"),
        ({"message": "x", "model": "nobody"}, None),
        ({"message": "x", "model": "extractive"}, "model"),
        ({"message": "x", "temperature": 3.0}, "temperature"),
        ({"message": "x", "prompt": "y"}, "prompt"),
    ],
)
async def test_what_is_no_message_is_refused_and_leaves_no_trace(at: Ours, body: dict[str, Any], field: str) -> None:
    client, _, services = at
    id = await begun(client)
    before = await kept(services)
    answer = await client.post(f"{PATH}/{id}/turns", json=body)
    assert answer.status_code == (404 if field is None else 422)
    assert answer.json().get("field") == field
    assert await kept(services) == before
    assert (await client.get(f"{PATH}/{id}")).json()["turns"] == 0


async def test_a_message_of_ten_megabytes_is_refused(at: Ours) -> None:
    client, _, services = at
    id = await begun(client)
    answer = await client.post(f"{PATH}/{id}/turns", json={"message": "x" * 10_000_000})
    assert (answer.status_code, answer.headers["content-type"]) in (
        (413, "application/problem+json"),
        (422, "application/problem+json"),
    )
    assert (await kept(services))["generations"] == 0


async def test_a_session_with_a_model_that_cannot_chat_is_not_begun(at: Ours) -> None:
    client, _, services = at
    for model, status in (("nobody", 404), ("extractive", 422), ("prompt-only", 422)):
        assert (await client.post(PATH, json={"model": model})).status_code == status
    for body in ({"title": "x" * 201}, {"title": None}, {"owner": "bob"}, {"instructions": 7}):
        assert (await client.post(PATH, json=body)).status_code == 422, body
    assert (await kept(services))["sessions"] == 0
