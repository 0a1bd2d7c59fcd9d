"""/api/v1/history: one list of all that one asked, narrowed, searched, and given out as JSON lines and as CSV."""

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

from asking import ask, client_of, serving, token_of
from built import ANN
from loquent.domain.sessions import begin
from loquent.ports.store import Add
from loquent.services.history import History
from loquent.web.edge import Edge
from loquent.wiring import Services
from storing import Watched, keep

pytestmark = pytest.mark.anyio

At = tuple[Edge, Services, httpx2.AsyncClient]
ROW = {
    *("id", "object", "kind", "status", "model", "input_preview", "output_preview", "finish_reason", "usage", "cost"),
    *("answered_by", "error", "progress", "parameters", "surface", "background", "attempts"),
    *("created_at", "started_at", "completed_at"),
    *("session", "turn", "turns_left_out", "upload", "feedback"),
}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[At]:
    async with (
        serving(tmp_path, works=False) as (app, services),
        client_of(app, token_of(services, "ann")) as client,
    ):
        yield app, services, client


async def rows(client: httpx2.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    """All pages of the list."""
    found: list[dict[str, Any]] = []
    while True:
        page = (await client.get("/api/v1/history", params=params)).raise_for_status().json()
        assert list(page) == ["object", "data", "first_id", "last_id", "has_more"]
        found += page["data"]
        if not page["has_more"]:
            return found
        params["after"] = page["last_id"]


async def exported(client: httpx2.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    """The export, read as what it says it is."""
    answer = (await client.get("/api/v1/history/export", params=params)).raise_for_status()
    if params.get("format") == "csv":
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        return list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.content.decode().split("\n")[:-1]]


async def test_the_list_shows_what_there_is_of_each(at: At) -> None:
    _, services, client = at
    asked = await client.post("/api/v1/generations", json={"prompt": "one two three"})
    chat = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    await client.post("/v1/chat/completions", json=chat)
    session = begin(ANN, surface="chat")
    await services.store.write(Add(session))
    turn = await keep(services.store, kind="chat", surface="chat", session=session.id, turn=3, turns_left_out=1)
    about = await keep(services.store, kind="image", surface="images", upload="img_1")
    await client.post("/api/v1/feedback", json={"generation_id": turn, "thumb": "down"})
    listed = await rows(client, limit=2)
    assert all(set(each) == ROW for each in listed)
    found = {(each["kind"], each["surface"]): each for each in listed}
    assert sorted(found) == [("chat", "chat"), ("chat", "openai"), ("image", "images"), ("text", "api")]
    assert (found["image", "images"]["id"], found["chat", "chat"]["id"]) == (about, turn)
    about_it = ("session", "turn", "turns_left_out", "feedback", "upload")
    assert {name: found["chat", "chat"][name] for name in about_it} == {
        "session": session.id,
        "turn": 3,
        "turns_left_out": 1,
        "feedback": "down",
        "upload": None,
    }
    assert found["image", "images"]["upload"] == "img_1"
    assert found["text", "api"]["id"] == asked.json()["id"]
    assert found["text", "api"]["output_preview"] == "one two three"


async def test_it_is_narrowed_by_all_that_it_says(at: At) -> None:
    _, services, client = at
    session = begin(ANN, surface="chat")
    await services.store.write(Add(session))
    plain = await keep(services.store, "Über den Fluss")
    turn = await keep(services.store, kind="chat", surface="chat", session=session.id, turn=1, rating="up")
    failed = await keep(services.store, status="failed", model="other")
    times = {each["id"]: each["created_at"] for each in await rows(client)}
    for params, expected in (
        ({"kind": "chat"}, [turn]),
        ({"status": "failed"}, [failed]),
        ({"model": "other"}, [failed]),
        ({"surface": "chat"}, [turn]),
        ({"surface": "nowhere"}, []),
        ({"session": session.id}, [turn]),
        ({"feedback": "up"}, [turn]),
        ({"feedback": "any"}, [turn]),
        ({"feedback": "none"}, [failed, plain]),
        ({"q": "über"}, [plain]),
        ({"q": "ÜBER", "kind": "text"}, [plain]),
        ({"q": "über", "kind": "chat"}, []),
        ({"created_after": times[turn]}, [failed, turn]),
        ({"created_before": times[failed]}, [turn, plain]),
    ):
        assert [each["id"] for each in await rows(client, **params)] == expected, params
        for form in ("jsonl", "csv"):
            found = await exported(client, format=form, **params)
            assert [each["id"] for each in found] == expected, (form, params)


@pytest.mark.parametrize(
    "query",
    [
        "kind=poem",
        "status=done",
        "surface=" + "x" * 41,
        "session=ses_1",
        "session=gen_" + "0" * 32,
        "feedback=sideways",
        "q=",
        "q=%20%09",
        "q=" + "x" * 201,
        "created_after=yesterday",
        "created_before=9999999",
        "after=x",
        "limit=0",
        "limit=101",
        "q=a&q=b",
    ],
)
async def test_what_cannot_be_asked_is_refused(at: At, query: str) -> None:
    _, _, client = at
    answer = await client.get(f"/api/v1/history?{query}")
    assert answer.status_code == 422
    assert answer.json()["field"] == query.partition("=")[0]


async def test_a_search_that_has_found_nothing_yet_says_where_to_go_on(at: At) -> None:
    _, services, client = at
    oldest = await keep(services.store, "the needle")
    for _ in range(60):
        await keep(services.store, "hay")
    services.history = History(services.store, scanned=20, step=10)
    first = (await client.get("/api/v1/history", params={"q": "needle"})).json()
    assert (first["data"], first["first_id"], first["has_more"]) == ([], None, True)
    assert first["last_id"].startswith("gen_")
    assert [each["id"] for each in await rows(client, q="needle")] == [oldest]


@pytest.mark.parametrize("stranger", ["bob", "ann elsewhere", "anonymous"])
async def test_another_sees_none_of_it(at: At, stranger: str) -> None:
    app, services, client = at
    await keep(services.store, "a secret", kind="chat", surface="chat")
    tenant = "other" if "elsewhere" in stranger else "default"
    token = None if stranger == "anonymous" else token_of(services, stranger.split()[0], tenant=tenant)
    async with client_of(app, token) as other:
        assert await rows(other) == await rows(other, q="secret") == await rows(other, surface="chat") == []
        for form in ("jsonl", "csv"):
            assert await exported(other, format=form) == []
            assert b"secret" not in (await other.get(f"/api/v1/history/export?format={form}")).content
    assert len(await rows(client)) == 1


# Export

UGLY = (
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "＝1+1",
    '=HYPERLINK("http://evil.example","click")',
    'say "hello", he said',
    "two\nlines",
    "two\r\nlines",
    "comma, comma",
    "日本語 🙂 ünï",
    "plain",
    "",
    "1e5",
    "a=b",
    "\u2028line separator",
)


async def test_both_exports_are_the_list_with_all_texts(at: At) -> None:
    _, services, client = at
    for number, text in enumerate(UGLY):
        await keep(services.store, f"{text}{number}", text, rating="up" if number % 2 else None)
    listed = await rows(client, limit=7)
    as_json, as_csv = await exported(client), await exported(client, format="csv")
    assert [each["id"] for each in listed] == [each["id"] for each in as_json] == [each["id"] for each in as_csv]
    assert [each["output"] for each in as_json] == list(UGLY[::-1])
    assert [each["input"] for each in as_json] == [{"prompt": f"{text}{n}"} for n, text in enumerate(UGLY)][::-1]
    for row, whole, cells in zip(listed, as_json, as_csv, strict=True):
        assert {name: value for name, value in row.items() if "preview" not in name}.items() <= whole.items()
        for name in ("id", "kind", "surface", "status", "model", "created_at"):
            assert cells[name] == row[name]
        assert cells["feedback"] == (row["feedback"] or "")
    assert [each["output"].removeprefix("'") for each in as_csv] == list(UGLY[::-1])


async def test_no_cell_is_a_formula(at: At) -> None:
    _, services, client = at
    for text in UGLY:
        await keep(services.store, text, text, error_message=text, model=text[:20] or "m")
    answer = await client.get("/api/v1/history/export?format=csv")
    for row in csv.reader(io.StringIO(answer.content.decode(), newline="")):
        for cell in row:
            assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")), cell
    assert b"'=1+1" in answer.content, "what is guarded is there, behind an apostrophe"
    assert [each["output"] for each in await exported(client)] == list(UGLY[::-1]), "only in CSV"


async def test_csv_is_as_rfc_4180_wants_it(at: At) -> None:
    _, services, client = at
    await keep(services.store, 'a "quoted", text', "two\nlines")
    text = (await client.get("/api/v1/history/export?format=csv")).content.decode()
    assert text.endswith("\r\n")
    header, _, rest = text.partition("\r\n")
    assert header.startswith("id,kind,surface,status,model,created_at,completed_at,session")
    assert '"a ""quoted"", text","two\nlines",\r\n' in rest
    assert not (await client.get("/api/v1/history/export?format=csv&kind=image")).content.decode().partition("\r\n")[2]


async def test_an_export_is_a_file_that_no_browser_opens(at: At) -> None:
    _, _, client = at
    for form in ("jsonl", "csv"):
        answer = await client.get(f"/api/v1/history/export/?format={form}")
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith(f'attachment; filename="history.{form}"')
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    assert (await client.get("/api/v1/history/export?format=xml")).status_code == 422


async def test_an_export_is_sent_page_by_page_and_ends_with_its_reader(at: At) -> None:
    app, services, _ = at
    for _ in range(600):
        await keep(services.store, "x" * 3_000)
    watched = Watched(services.store)
    services.history = History(watched)  # type: ignore[arg-type]
    headers = [("authorization", f"Bearer {token_of(services, 'ann')}")]
    whole = await ask(app, "GET", "/api/v1/history/export", headers=headers)
    assert (whole.status, whole.is_whole, len(whole.pieces) > 10) == (200, True, True)
    assert watched.most <= 334, "a page's texts at most, and those within a million characters"
    watched.read = 0
    async with asyncio.timeout(10):
        cut = await ask(app, "GET", "/api/v1/history/export", headers=headers, seen=lambda _: True)
    assert not cut.is_whole
    assert watched.read <= 200, "the rest was not even read"


async def test_a_fault_in_the_midst_of_an_export_is_no_whole_file(at: At) -> None:
    app, services, _ = at
    for _ in range(600):
        await keep(services.store, "x" * 3_000)

    class Failing(Watched):
        async def page(self, *args: Any, **more: Any) -> Any:
            if self.read:
                from loquent.domain.errors import Unavailable

                raise Unavailable("the database is away")
            return await super().page(*args, **more)

    services.history = History(Failing(services.store))  # type: ignore[arg-type]
    headers = [("authorization", f"Bearer {token_of(services, 'ann')}")]
    with pytest.raises(Exception, match=r"response already started|away"):
        await ask(app, "GET", "/api/v1/history/export", headers=headers)
    failing = Failing(services.store)
    failing.read = 1
    services.history = History(failing)  # type: ignore[arg-type]
    at_once = await ask(app, "GET", "/api/v1/history/export", headers=headers)
    assert (at_once.status, at_once.header("content-type")) == (503, "application/problem+json")
