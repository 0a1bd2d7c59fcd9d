"""One user, every surface: what is made through any of them is in the same history, and another sees none of it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import client_of, serving
from loquent.web.edge import Edge
from samples import pictures
from surfaces import TEXT

pytestmark = pytest.mark.anyio

PASSWORD = "a long enough one"
MADE = {
    "api": "text",
    "openai": "chat",
    "summaries": "summary",
    "textgen": "text",
    "documents": "document",
    "images": "image",
    "chat": "chat",
}
"""Each surface, and the kind of what is made there."""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Edge]:
    async with serving(tmp_path, LOQUENT_STORE=f"sqlite:///{tmp_path}/loquent.db") as (app, _):
        yield app


async def token(client: httpx2.AsyncClient, name: str) -> str:
    """Somebody registers and logs in, as the textgen family does."""
    account = {"username": name, "password": PASSWORD}
    assert (await client.post("/users", json=account)).status_code == 200
    answer = await client.post("/token", data=account)
    return str(answer.json()["access_token"])


async def made(client: httpx2.AsyncClient) -> dict[str, str]:
    """Something is made through each surface, as its clients do; what each was answered."""
    said: dict[str, str] = {}

    async def post(path: str, *, status: int = 200, **more: Any) -> Any:
        answer = await client.post(path, **more)
        assert answer.status_code == status, (path, answer.text)
        return answer.json()

    said["api"] = (await post("/api/v1/generations", json={"prompt": "by our own"}))["output"]
    chat = {"model": "echo", "messages": [{"role": "user", "content": "by OpenAI’s"}]}
    said["openai"] = (await post("/v1/chat/completions", json=chat))["choices"][0]["message"]["content"]
    summary = await post("/api/v1/summaries/", status=201, json={"text": TEXT})
    async with asyncio.timeout(20):
        while summary["status"] != "completed":
            await asyncio.sleep(0.02)
            summary = (await client.get(f"/api/v1/summaries/{summary['id']}/")).json()
    said["summaries"] = summary["summary_text"]
    whole = (await post("/text_generations", json={"prompt": "go on"}))["generated_text"]
    said["textgen"] = whole.removeprefix("go on")
    document = await post("/getdoc/uploadfile", files={"file": ("notes.txt", TEXT.encode(), "text/plain")})
    said["documents"] = document["ml_response"]["modelResponse"]
    picture = await post("/upload/image", files={"file": ("boat.png", pictures.plain("PNG"), "image/png")})
    said["images"] = picture["result"]["model_result"]
    session = (await post("/session/initialize_session"))["session_id"]
    said["chat"] = (await post("/chat/", json={"session_id": session, "role": "user", "content": "hello"}))["content"]
    await post("/feedback/", json={"session_id": session, "feedback": "kind"})
    return said


async def history(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 3}
    while True:
        page = (await client.get("/api/v1/history", params=params)).raise_for_status().json()
        found += page["data"]
        if not page["has_more"]:
            return found
        params["after"] = page["last_id"]


async def test_one_history_has_what_was_made_through_every_surface_and_another_sees_none(app: Edge) -> None:
    async with client_of(app) as anybody:
        ann, bob = await token(anybody, "ann"), await token(anybody, "bob")
    async with client_of(app, ann) as client:
        said = await made(client)
        rows = await history(client)
        assert [(each["surface"], each["kind"]) for each in rows] == list(MADE.items())[::-1]
        assert all(each["status"] == "completed" for each in rows)
        ours = {each["surface"]: each for each in rows}
        for surface, row in ours.items():
            whole = (await client.get(f"/api/v1/generations/{row['id']}")).json()
            assert whole["output"] == said[surface], surface
            only = (await client.get("/api/v1/history", params={"surface": surface})).json()["data"]
            assert [each["id"] for each in only] == [row["id"]]
        assert (ours["chat"]["turn"], ours["chat"]["session"][:4]) == (1, "ses_")
        assert ours["documents"]["upload"].startswith("doc_")
        assert ours["images"]["upload"].startswith("img_")
        for form in ("jsonl", "csv"):
            text = (await client.get("/api/v1/history/export", params={"format": form})).content.decode()
            lines = (
                csv.DictReader(io.StringIO(text, newline="")) if form == "csv" else map(json.loads, text.splitlines())
            )
            assert {each["surface"]: each["output"] for each in lines} == said
        feedback = (await client.get("/api/v1/feedback")).json()["data"]
        assert [(each["comment"], each["surface"]) for each in feedback] == [("kind", "chat")]
    for stranger in (bob, None):
        async with client_of(app, stranger) as client:
            await sees_none(client, rows)


async def sees_none(client: httpx2.AsyncClient, rows: list[dict[str, Any]]) -> None:
    """No list, file or id shows any of it."""
    assert await history(client) == []
    for form in ("jsonl", "csv"):
        text = (await client.get("/api/v1/history/export", params={"format": form})).content.decode()
        assert not [row for row in rows if row["id"] in text]
    for path in ("/api/v1/generations", "/api/v1/feedback", "/api/v1/documents", "/api/v1/images", "/api/v1/sessions"):
        assert (await client.get(path)).json()["data"] == [], path
    assert (await client.get("/api/v1/summaries")).json()["total"] == 0
    assert (await client.get("/getdoc/allResponses")).json() == []
    for row in rows:
        assert (await client.get(f"/api/v1/generations/{row['id']}")).status_code == 404
        only = (await client.get("/api/v1/history", params={"surface": row["surface"]})).json()
        assert only["data"] == []
    if "authorization" in client.headers:
        assert (await client.get("/text_generations")).json() == []
        assert (await client.get("/upload/history")).json()["result"] == []


async def test_what_each_family_lists_is_its_own_part_of_that_history(app: Edge) -> None:
    async with client_of(app) as anybody:
        ann = await token(anybody, "ann")
    async with client_of(app, ann) as client:
        said = await made(client)
        assert [each["generated_text"] for each in (await client.get("/text_generations/")).json()] == [
            f"go on{said['textgen']}"
        ]
        responses = (await client.get("/getdoc/allResponses/")).json()
        assert [each["ml_response"]["modelResponse"] for each in responses] == [said["documents"]]
        images = (await client.get("/upload/history/")).json()["result"]
        assert [each["model_result"] for each in images] == [said["images"]]
        summaries = (await client.get("/api/v1/summaries/")).json()["summaries"]
        assert [each["summary_text"] for each in summaries] == [said["summaries"]]
