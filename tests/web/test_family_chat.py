"""The chat family's table, row by row, and what stands behind it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
import time_machine
from families import Case, both, check

from asking import JSON, ask, client_of, kept, serving, token_of
from loquent.domain.feedback import Feedback
from loquent.domain.generations import Generation
from loquent.web.edge import Edge
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

BEGIN, CHAT, FEEDBACK = "/session/initialize_session", "/chat", "/feedback"
NOON, HALF_PAST_ELEVEN = "2026-01-31T12:00:00Z", "2026-01-31T11:30:00Z"
LIMITS = {"LOQUENT_LIMIT_MESSAGES": "5/minute", "LOQUENT_LIMIT_SESSIONS": "30/minute"}
TIME = re.compile(r"2026-01-31T1\d:\d\d:\d\d\.\d{6}Z")
Ours = tuple[httpx2.AsyncClient, Edge, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        yield client, app, services


async def begun(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """There is a session."""
    return {"id": (await client.post(BEGIN)).json()["session_id"]}


async def begun_long_ago(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """There is one in which nothing has been said for half an hour."""
    with time_machine.travel(HALF_PAST_ELEVEN, tick=False):
        return await begun(client)


async def much_was_said(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """There is one that has had all the messages of a minute."""
    known = await begun(client)
    for word in ("one", "two", "three", "four", "five"):
        assert (await client.post(CHAT, json=said(known["id"], word))).status_code == 200
    return known


def said(id: str, content: str = "Hello there") -> dict[str, str]:
    return {"session_id": id, "role": "user", "content": content}


def chat_case(name: str, status: int, shape: Any, before: Any = begun, headers: Any = None, **body: Any) -> Case:
    sent = {name: value for name, value in {**said("{id}"), **body}.items() if value is not ...}
    return Case("POST /chat/", name, status, shape, {"json": sent}, before=before, headers=headers or {})


def feedback_case(name: str, status: int, shape: Any, before: Any = begun, **body: Any) -> Case:
    sent = {"session_id": "{id}", "feedback": "very good", **body}
    return Case(
        "POST /feedback/", name, status, shape, {"json": {k: v for k, v in sent.items() if v is not ...}}, before=before
    )


ANSWER = {"session_id": "{id}", "role": "assistant", "content": "Hello there"}
ERROR = {"detail": str}
NOBODYS = {"session_id": "0b3d5f1c-7f0e-4b57-9a67-5d1a7b1f3c11"}
BEGUN = {"session_id": UUID, "created_at": TIME, "last_active": TIME, "is_active": 1}
MALFORMED = (
    "",
    "x",
    "../../etc/passwd",
    "ses_" + "0" * 32,
    "0" * 32,
    "{" + NOBODYS["session_id"] + "}",
    "x" * 10_000,
    "\u0661",
)
WRONG = (None, 7, True, [], {}, ["text"])

CASES = [
    Case("POST /session/initialize_session", "no body", 200, BEGUN),
    Case("POST /session/initialize_session", "an empty object", 200, BEGUN, {"json": {}}),
    Case("POST /session/initialize_session", "anything", 200, BEGUN, {"content": b"\xff{", "headers": dict([JSON])}),
    Case("POST /session/initialize_session", "a bad token", 401, ERROR, {"headers": {"authorization": "Bearer x.y.z"}}),
    chat_case("answered", 200, ANSWER),
    chat_case("unknown session", 404, ERROR, **NOBODYS),
    chat_case("expired", 410, {"detail": re.compile(".*30 minutes.*")}, begun_long_ago),
    chat_case("over the limit", 429, ERROR, much_was_said, headers={"retry-after": "60", "retry-after-ms": "60000"}),
    chat_case("blank", 422, {"detail": re.compile("the message is blank")}, content=" \n "),
    chat_case("empty", 422, ERROR, content=""),
    chat_case("another role", 422, {"detail": re.compile("role: .*")}, role="assistant"),
    chat_case("an extra field", 422, {"detail": re.compile("colour: .*")}, colour="red"),
    *(chat_case(f"no {name}", 422, {"detail": re.compile(f"{name}: .*")}, **{name: ...}) for name in said("")),
    *(chat_case(f"content {value!r}", 422, {"detail": re.compile("content: .*")}, content=value) for value in WRONG),
    *(chat_case(f"id {value!r}", 422, {"detail": re.compile("session_id: .*")}, session_id=value) for value in WRONG),
    *(chat_case(f"id {id[:20]!r}", 422 if len(id) > 100 else 404, ERROR, session_id=id) for id in MALFORMED),
    feedback_case("received", 200, {"detail": "Feedback received"}),
    feedback_case("of an expired session", 200, {"detail": "Feedback received"}, begun_long_ago),
    feedback_case("unknown session", 404, ERROR, **NOBODYS),
    feedback_case("empty", 422, ERROR, feedback=""),
    feedback_case("blank", 422, ERROR, feedback="  "),
    feedback_case("no feedback", 422, {"detail": re.compile("feedback: .*")}, feedback=...),
    feedback_case("no session_id", 422, {"detail": re.compile("session_id: .*")}, session_id=...),
    feedback_case("an extra field", 422, {"detail": re.compile("stars: .*")}, stars=5),
    feedback_case("too long", 422, ERROR, feedback="x" * 10_001),
    *(feedback_case(f"id {id[:20]!r}", 422 if len(id) > 100 else 404, ERROR, session_id=id) for id in MALFORMED),
]


@pytest.mark.parametrize(("case", "slash"), both(CASES), ids=[f"{each.id} {slash}"[:70] for each, slash in both(CASES)])
async def test_each_row_of_the_table_in_both_spellings(tmp_path: Path, case: Case, slash: bool) -> None:
    async with serving(tmp_path, **LIMITS) as (app, _), client_of(app) as client:
        with time_machine.travel(NOON, tick=False):
            answer = await check(client, case, slash)
            assert answer.headers["content-type"] == "application/json"


# What the words around the table say


async def test_each_answer_takes_the_earlier_messages_into_account(at: Ours) -> None:
    client, _, services = at
    id = (await begun(client))["id"]
    for number, word in enumerate(("one", "two", "three")):
        assert (await client.post(CHAT, json=said(id, word))).json()["content"] == word
        owner = f"ses_{UUID(id).hex}"
        found = await services.store.page(Generation, "turns", whole(owner), limit=9)
        assert found.items[-1].prompt_tokens == 1 + 2 * number


def whole(id: str) -> dict[str, str]:
    """Where the records of a session stand that its holder owns."""
    return {"tenant": "default", "owner": id, "session": id}


async def test_a_session_is_open_at_29_59_and_gone_at_30_00(at: Ours) -> None:
    client, _, services = at
    with time_machine.travel(NOON, tick=False) as clock:
        id = (await begun(client))["id"]
        clock.shift(29 * 60 + 59)
        assert (await client.post(CHAT, json=said(id))).status_code == 200
        clock.shift(29 * 60 + 59)
        assert (await client.post(CHAT, json=said(id))).status_code == 200, "each message opens it for 30 minutes more"
        clock.shift(30 * 60)
        before = await kept(services)
        for _ in range(2):
            gone = await client.post(CHAT, json=said(id))
            assert (gone.status_code, "30 minutes" in gone.json()["detail"]) == (410, True)
        assert await kept(services) == before
        clock.shift(-1)
        assert (await client.post(CHAT, json=said(id))).status_code == 200, "what was refused has not moved the end"


async def test_the_sixth_message_of_a_minute_is_taken_after_exactly_retry_after(tmp_path: Path) -> None:
    async with serving(tmp_path, **LIMITS) as (app, services), client_of(app) as client:
        with time_machine.travel(NOON, tick=False) as clock:
            ids = [(await begun(client))["id"] for _ in range(2)]
            for number in range(5):
                answer = await client.post(CHAT, json=said(ids[0]))
                assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, str(4 - number))
                assert answer.headers["ratelimit-policy"] == '"requests";q=5;w=60'
                clock.shift(7)
            refused = await client.post(CHAT, json=said(ids[0]))
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "25")
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            assert (await client.post(CHAT, json=said(ids[1]))).status_code == 200, "another session is another counter"
            clock.shift(24)
            assert (await client.post(CHAT, json=said(ids[0]))).headers["retry-after"] == "1"
            clock.shift(1)
            assert (await client.post(CHAT, json=said(ids[0]))).status_code == 200
            assert (await client.post(CHAT, json=said(ids[0]))).headers["retry-after"] == "7"
        assert (await kept(services))["generations"] == 7


async def test_the_order_of_refusals_is_unknown_then_expired_then_over(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, **{**LIMITS, "LOQUENT_LIMIT_MESSAGES": "1/hour"}) as (app, _),
        client_of(app) as client,
    ):
        with time_machine.travel(NOON, tick=False) as clock:
            id = (await begun(client))["id"]
            statuses = [(await client.post(CHAT, json=said(id))).status_code for _ in range(2)]
            clock.shift(30 * 60)
            statuses.append((await client.post(CHAT, json=said(id))).status_code)
        assert statuses == [200, 429, 410]


async def test_sessions_are_limited_for_each_address(tmp_path: Path) -> None:
    async with serving(tmp_path, **{**LIMITS, "LOQUENT_LIMIT_SESSIONS": "2/minute"}) as (app, services):
        for address in ("10.0.0.1", "10.0.0.2"):
            answers = [await ask(app, "POST", BEGIN, address=address) for _ in range(3)]
            assert [each.status for each in answers] == [200, 200, 429]
            assert answers[2].header("retry-after") == "60"
            assert set(answers[2].json()) == {"detail"}
        assert (await kept(services))["sessions"] == 4


async def test_where_anonymous_callers_are_not_served_a_token_is_needed(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_ANONYMOUS="off") as (app, services), client_of(app) as client:
        asked = ((BEGIN, {}), (CHAT, said(NOBODYS["session_id"])), (FEEDBACK, {"session_id": "x", "feedback": "y"}))
        for path, body in asked:
            answer = await client.post(path, json=body)
            assert (answer.status_code, list(answer.json())) == (401, ["detail"]), path
            assert answer.headers["www-authenticate"] == "Bearer"
        async with client_of(app, token_of(services, "ann")) as ann:
            id = (await begun(ann))["id"]
            assert (await ann.post(CHAT, json=said(id))).status_code == 200
        assert (await kept(services))["sessions"] == 1


async def test_a_session_of_a_users_is_theirs_alone_and_in_their_history(at: Ours) -> None:
    client, app, services = at
    async with client_of(app, token_of(services, "ann")) as ann, client_of(app, token_of(services, "bob")) as bob:
        id = (await begun(ann))["id"]
        assert (await ann.post(CHAT, json=said(id, "mine"))).json()["content"] == "mine"
        thought = {"session_id": id, "feedback": "theirs"}
        for stranger in (bob, client):
            assert (await stranger.post(CHAT, json=said(id))).status_code == 404
            assert (await stranger.post(FEEDBACK, json=thought)).status_code == 404
        [turn] = (await ann.get("/api/v1/generations?kind=chat")).json()["data"]
        assert (turn["surface"], turn["input_preview"], turn["turn"]) == ("chat", "mine", 1)
        [session] = (await ann.get("/api/v1/sessions")).json()["data"]
        assert (session["id"], session["title"]) == (f"ses_{UUID(id).hex}", "mine")
        for stranger in (bob, client):
            assert (await stranger.get("/api/v1/sessions")).json()["data"] == []
            assert (await stranger.get("/api/v1/generations")).json()["data"] == []


async def test_a_session_begun_natively_can_be_spoken_in_here(at: Ours) -> None:
    _, app, services = at
    async with client_of(app, token_of(services, "ann")) as ann:
        made = (await ann.post("/api/v1/sessions", json={"instructions": "Be brief."})).json()["id"]
        id = str(UUID(made.removeprefix("ses_")))
        assert (await ann.post(CHAT, json=said(id, "hello"))).status_code == 200
        [turn] = (await ann.get(f"/api/v1/sessions/{made}/turns")).json()["data"]
        assert (turn["message"], turn["usage"]["prompt_tokens"]) == ("hello", 3)


async def test_without_a_token_the_id_alone_is_the_key_wherever_one_comes_from(at: Ours) -> None:
    client, app, services = at
    id = (await begun(client))["id"]
    body = json.dumps(said(id)).encode()
    elsewhere = await ask(app, "POST", CHAT, headers=[JSON], body=body, address="10.9.9.9")
    assert elsewhere.status == 200
    async with client_of(app, token_of(services, "ann")) as ann:
        assert (await ann.post(CHAT, json=said(id))).status_code == 200
        assert (await ann.get("/api/v1/sessions")).json()["data"] == [], "speaking in it does not make it one's own"


async def test_feedback_is_kept_with_the_session(at: Ours) -> None:
    client, _, services = at
    id = (await begun(client))["id"]
    for text in ("very good", "not so good"):
        assert (await client.post(FEEDBACK, json={"session_id": id, "feedback": text})).status_code == 200
    owner = f"ses_{UUID(id).hex}"
    found = await services.store.page(Feedback, "session", whole(owner), limit=9)
    assert [(each.comment, each.surface) for each in found.items] == [("not so good", "chat"), ("very good", "chat")]


@pytest.mark.parametrize("path", [BEGIN, CHAT, FEEDBACK])
async def test_ten_megabytes_are_refused_in_the_familys_form(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, LOQUENT_MAX_BODY="1000000") as (app, services), client_of(app) as client:
        id = (await begun(client))["id"]
        before = await kept(services)
        body = json.dumps({**said(id, "x" * 10_000_000), "feedback": "x"}).encode()
        answer = await client.post(path, content=body, headers=dict([JSON]))
        assert (answer.status_code, list(answer.json())) == (413, ["detail"])
        assert await kept(services) == before


@pytest.mark.parametrize(
    ("content", "status"), [("[fail] x", 502), ("[away] x", 503), ("[busy 2] x", 503), ("word " * 1_200, 422)]
)
async def test_a_fault_of_the_model_is_said_in_the_familys_form(at: Ours, content: str, status: int) -> None:
    client, _, _ = at
    id = (await begun(client))["id"]
    answer = await client.post(CHAT, json=said(id, content))
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert (await client.post(CHAT, json=said(id))).status_code == 200, "and the session goes on"


async def test_a_caller_who_hangs_up_ends_the_answer(at: Ours) -> None:
    client, app, services = at
    id = (await begun(client))["id"]
    body = json.dumps(said(id, "[slow 0.02] [words 5000] word")).encode()
    async with asyncio.timeout(10):
        answer = await ask(app, "POST", CHAT, headers=[JSON], body=body, leaves=True)
        assert not answer.pieces
        while services.runner.lives:
            await asyncio.sleep(0.01)
    assert (await client.post(CHAT, json=said(id))).status_code == 200


async def test_a_repeat_with_the_same_key_is_the_same_answer(at: Ours) -> None:
    client, _, services = at
    id = (await begun(client))["id"]
    answers = [await client.post(CHAT, json=said(id), headers={"idempotency-key": "once"}) for _ in range(2)]
    assert [each.headers.get("idempotent-replayed") for each in answers] == [None, "true"]
    assert answers[0].json() == answers[1].json()
    assert (await kept(services))["generations"] == 1
