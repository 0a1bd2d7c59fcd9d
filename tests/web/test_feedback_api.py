"""/api/v1/feedback: say what one thinks, list it, take it back, and get it as lines to evaluate and train with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import client_of, fresh, serving, token_of
from built import ANN
from loquent.domain.sessions import begin
from loquent.ports.store import Add
from loquent.web.edge import Edge
from loquent.wiring import Services
from storing import keep

pytestmark = pytest.mark.anyio

At = tuple[Edge, Services, httpx2.AsyncClient]
KEYS = [
    *("id", "object", "generation_id", "session_id", "thumb", "score", "comment", "labels", "surface"),
    *("created_at", "updated_at"),
]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[At]:
    async with (
        serving(tmp_path, works=False) as (app, services),
        client_of(app, token_of(services, "ann")) as client,
    ):
        yield app, services, client


async def give(client: httpx2.AsyncClient, **said: Any) -> dict[str, Any]:
    answer = await client.post("/api/v1/feedback", json=said)
    assert answer.status_code == 201, answer.text
    given: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/api/v1/feedback/{given['id']}"
    return given


async def lines(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/api/v1/feedback/export")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"].startswith('attachment; filename="feedback.jsonl"')
    text = answer.content.decode()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


async def chat(services: Services) -> str:
    session = begin(ANN, surface="chat")
    await services.store.write(Add(session))
    return session.id


async def test_what_is_said_is_shown_listed_and_taken_back(at: At) -> None:
    _, services, client = at
    made = await keep(services.store)
    said = {"thumb": "down", "score": 2, "comment": "zu lang 🙂", "labels": ["too long", "länge"]}
    given = await give(client, generation_id=made, **said)
    assert list(given) == KEYS
    assert said.items() <= given.items()
    assert (given["object"], given["generation_id"], given["session_id"], given["surface"]) == (
        "feedback",
        made,
        None,
        "api",
    )
    assert (await client.get(f"/api/v1/feedback/{given['id']}")).json() == given
    assert (await client.get("/api/v1/feedback")).json() == {
        "object": "list",
        "data": [given],
        "first_id": given["id"],
        "last_id": given["id"],
        "has_more": False,
    }
    gone = await client.delete(f"/api/v1/feedback/{given['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await client.get(f"/api/v1/feedback/{given['id']}")).status_code == 404
    assert (await client.get("/api/v1/history")).json()["data"][0]["feedback"] is None


async def test_a_later_word_is_put_to_an_earlier(at: At) -> None:
    _, services, client = at
    made = await keep(services.store)
    first = await give(client, generation_id=made, thumb="up", labels=["fine"])
    last = await give(client, generation_id=made, thumb="down")
    assert (last["id"], last["thumb"], last["labels"]) == (first["id"], "down", ["fine"])
    assert len((await client.get("/api/v1/feedback")).json()["data"]) == 1


async def test_lists_are_narrowed_and_walked(at: At) -> None:
    _, services, client = at
    made, session = await keep(services.store), await chat(services)
    of_generation = await give(client, generation_id=made, thumb="up")
    of_session = [await give(client, session_id=session, comment=f"{number}") for number in range(5)]
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 2, "session_id": session}
    while True:
        page = (await client.get("/api/v1/feedback", params=params)).json()
        found += page["data"]
        if not page["has_more"]:
            break
        params["after"] = page["last_id"]
    assert found == of_session[::-1]
    only = await client.get("/api/v1/feedback", params={"generation_id": made})
    assert only.json()["data"] == [of_generation]
    both = await client.get("/api/v1/feedback", params={"generation_id": made, "session_id": session})
    assert both.status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"thumb": "up"}, "body"),
        ({"generation_id": fresh(), "session_id": "ses_" + "0" * 32, "thumb": "up"}, "body"),
        ({"generation_id": "gen_1", "thumb": "up"}, "generation_id"),
        ({"session_id": "../../etc/passwd", "thumb": "up"}, "session_id"),
        ({"generation_id": fresh(), "thumb": "sideways"}, "thumb"),
        ({"generation_id": fresh(), "score": 0}, "score"),
        ({"generation_id": fresh(), "score": 6}, "score"),
        ({"generation_id": fresh(), "score": 4.5}, "score"),
        ({"generation_id": fresh(), "comment": "x" * 10_001}, "comment"),
        ({"generation_id": fresh(), "labels": ["x"] * 21}, "labels"),
        ({"generation_id": fresh(), "labels": ["x" * 65]}, "labels.0"),
        ({"generation_id": fresh(), "labels": "x"}, "labels"),
        ({"generation_id": fresh(), "thumb": "up", "mood": "good"}, "mood"),
    ],
)
async def test_what_is_no_feedback_is_refused(at: At, body: dict[str, Any], field: str) -> None:
    _, _, client = at
    answer = await client.post("/api/v1/feedback", json=body)
    assert (answer.status_code, answer.json().get("field", "")) == (422, field)


async def test_nothing_at_all_is_no_feedback(at: At) -> None:
    _, services, client = at
    made = await keep(services.store)
    for said in ({}, {"comment": " "}, {"labels": []}, {"thumb": None, "score": None}):
        answer = await client.post("/api/v1/feedback", json={"generation_id": made, **said})
        assert answer.status_code == 422


async def test_what_is_not_there_is_not_found(at: At) -> None:
    _, _, client = at
    for body in ({"generation_id": fresh()}, {"session_id": "ses_" + "0" * 32}):
        assert (await client.post("/api/v1/feedback", json={**body, "thumb": "up"})).status_code == 404
    for method in ("GET", "DELETE"):
        for id in (fresh("fbk"), "fbk_1", "x"):
            assert (await client.request(method, f"/api/v1/feedback/{id}")).status_code == 404


async def test_anothers_is_not_there(at: At) -> None:
    app, services, client = at
    made, session = await keep(services.store), await chat(services)
    given = await give(client, generation_id=made, thumb="up", comment="a secret")
    async with client_of(app, token_of(services, "bob")) as bob:
        for body in ({"generation_id": made}, {"session_id": session}):
            assert (await bob.post("/api/v1/feedback", json={**body, "thumb": "down"})).status_code == 404
        for method in ("GET", "DELETE"):
            assert (await bob.request(method, f"/api/v1/feedback/{given['id']}")).status_code == 404
        for params in ({}, {"generation_id": made}, {"session_id": session}):
            assert (await bob.get("/api/v1/feedback", params=params)).json()["data"] == []
        assert await lines(bob) == []
    assert (await client.get(f"/api/v1/feedback/{given['id']}")).json() == given


# Export

SAID = {"thumb": "up", "score": 5, "comment": "gut", "labels": ["wahr"]}


@pytest.mark.parametrize(
    ("kind", "input", "prompt", "messages", "rest"),
    [
        ("text", {"prompt": "go on", "plain": True}, "go on", None, {"plain": True}),
        (
            "chat",
            {"messages": [{"role": "user", "content": "hello"}]},
            None,
            [{"role": "user", "content": "hello"}],
            {},
        ),
        ("summary", {"text": "long", "length": "short"}, "long", None, {"length": "short"}),
        ("chat", {"message": "and then?"}, "and then?", None, {}),
        (
            "document",
            {"document": "doc_1", "name": "a.pdf", "instruction": "who?"},
            "who?",
            None,
            {"document": "doc_1", "name": "a.pdf"},
        ),
        (
            "image",
            {"image": "img_1", "name": "a.png", "prompt": "what?"},
            "what?",
            None,
            {"image": "img_1", "name": "a.png"},
        ),
    ],
)
async def test_a_line_has_all_that_evaluation_and_training_need(
    at: At, kind: str, input: dict[str, Any], prompt: str | None, messages: Any, rest: dict[str, Any]
) -> None:
    _, services, client = at
    made = await keep(services.store, "x", "the answer\nof two lines", kind=kind, input=input, parameters={"seed": 7})
    given = await give(client, generation_id=made, **SAID)
    [line] = await lines(client)
    assert {name: line[name] for name in KEYS} == given
    assert (line["kind"], line["prompt"], line["messages"], line["input"]) == (kind, prompt, messages, rest)
    assert (line["answer"], line["model"], line["parameters"]) == ("the answer\nof two lines", "echo", {"seed": 7})
    assert (line["status"], line["turn"]) == ("completed", None)
    assert line["asked_at"] <= line["created_at"]


async def test_a_turn_says_where_it_was_and_a_session_which_turns_it_had(at: At) -> None:
    _, services, client = at
    session = await chat(services)
    turns = [
        await keep(services.store, kind="chat", input={"message": "m"}, session=session, turn=number)
        for number in (1, 2, 3)
    ]
    await give(client, session_id=session, **SAID)
    await give(client, generation_id=turns[1], thumb="down")
    of_turn, of_session = await lines(client)
    assert (of_turn["session_id"], of_turn["turn"], of_turn["generation_id"]) == (session, 2, turns[1])
    assert (of_session["session_id"], of_session["turns"], of_session["generation_id"]) == (session, turns, None)


async def test_an_export_has_all_of_many(at: At) -> None:
    _, services, client = at
    expected = []
    for number in range(230):
        made = await keep(services.store, f"{number}")
        expected.append((await give(client, generation_id=made, thumb="up"))["id"])
    found = await lines(client)
    assert [each["id"] for each in found] == expected[::-1]
    assert [each["prompt"] for each in found] == [str(number) for number in range(230)][::-1]
