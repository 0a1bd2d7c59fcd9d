"""Documents over HTTP: uploaded, listed, read, asked about, downloaded and erased."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docx
import httpx2
import pytest

from asking import JSON, ask, client_of, kept, serving, token_of
from faults import away
from loquent.domain.clock import later, now
from loquent.wiring import Services
from samples import pdfs

pytestmark = pytest.mark.anyio

DOCUMENTS = "/api/v1/documents"
TEXT = "The river Aare rises in the Alps. It flows around the old town of Bern. Many people swim in it in summer."
KEYS = ["id", "object", "name", "kind", "media_type", "size", "sha256", "characters", "pages", "surface", "created_at"]
NOBODYS = "doc_" + "0" * 32
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        yield client, services


def part(data: bytes | str = TEXT, name: str = "aare.txt") -> dict[str, Any]:
    return {"file": (name, data.encode() if isinstance(data, str) else data)}


async def made(client: httpx2.AsyncClient, data: bytes | str = TEXT, name: str = "aare.txt") -> dict[str, Any]:
    answer = await client.post(DOCUMENTS, files=part(data, name))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def blobs(services: Services) -> set[str]:
    return {each.key async for each in services.blobs.list(until=later(now(), 60))}


def word() -> bytes:
    file = io.BytesIO()
    document = docx.Document()
    for line in pdfs.PROSE:
        document.add_paragraph(line)
    document.save(file)
    return file.getvalue()


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("name", "data", "kind", "media", "pages"),
    [
        ("a.txt", TEXT.encode(), "txt", "text/plain", None),
        ("a.md", b"# Title\n\n" + TEXT.encode(), "md", "text/markdown", None),
        ("a.PDF", pdfs.pdf([pdfs.PROSE]), "pdf", "application/pdf", 1),
        (
            "a.docx",
            word(),
            "docx",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            None,
        ),
    ],
)
async def test_each_kind_is_taken_and_told_by_its_content(
    at: Ours, name: str, data: bytes, kind: str, media: str, pages: int | None, slash: str
) -> None:
    client, _ = at
    answer = await client.post(DOCUMENTS + slash, files=part(data, name))
    said = answer.json()
    assert (answer.status_code, list(said)) == (201, KEYS)
    assert answer.headers["location"] == f"{DOCUMENTS}/{said['id']}"
    assert (said["kind"], said["media_type"], said["pages"], said["name"]) == (kind, media, pages, name)
    assert (said["size"], said["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert (await client.get(answer.headers["location"] + slash)).json() == said
    text = (await client.get(f"{DOCUMENTS}/{said['id']}/text{slash}")).json()
    assert (text["id"], len(text["text"])) == (said["id"], said["characters"])
    assert text["text"].strip()


async def test_a_list_is_ones_own_by_pages_newest_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        ids = [(await made(client, f"text {number}"))["id"] for number in range(5)][::-1]
        seen: list[str] = []
        after = ""
        while True:
            page = (await client.get(f"{DOCUMENTS}?limit=2{after}")).json()
            assert list(page) == ["object", "data", "first_id", "last_id", "has_more"]
            assert [page["first_id"], page["last_id"]] == [page["data"][0]["id"], page["data"][-1]["id"]]
            seen += [each["id"] for each in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert seen == ids
        async with client_of(app, token_of(services, "ann")) as ann:
            empty = (await ann.get(DOCUMENTS)).json()
        assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("name", "plain", "whole"),
    [
        ("aare.txt", "aare.txt", "aare.txt"),
        ("Größe 漢字.txt", "Gr__e __.txt", "Gr%C3%B6%C3%9Fe%20%E6%BC%A2%E5%AD%97.txt"),
        ("a;b=c.txt", "a_b_c.txt", "a%3Bb%3Dc.txt"),
        ("a'b%0d%0ax: y.txt", "a_b_0d_0ax_ y.txt", "a%27b%250d%250ax%3A%20y.txt"),
    ],
)
async def test_the_original_comes_back_as_an_attachment_that_runs_nowhere(
    at: Ours, name: str, plain: str, whole: str
) -> None:
    client, _ = at
    data = b"<script>alert(1)</script> is what this plain text says, and a lot more besides"
    id = (await made(client, data, name))["id"]
    answer = await client.get(f"{DOCUMENTS}/{id}/original")
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-disposition"] == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}"
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(data))


async def test_a_name_never_ends_a_header(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, _):
        name = b'filename="a\\"b\x7f\x0b; Set-Cookie: x\xff\xc2\x85.txt"'
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; ' + name + b"\r\n\r\n"
        headers = [("content-type", "multipart/form-data; boundary=edge")]
        answer = await ask(app, "POST", DOCUMENTS, headers=headers, body=head + TEXT.encode() + b"\r\n--edge--\r\n")
        assert answer.status == 201, answer.body
        original = await ask(app, "GET", f"{DOCUMENTS}/{answer.json()['id']}/original")
        assert all(value.isascii() and value.isprintable() for _, value in original.headers)
        assert original.header("content-disposition") is not None
        assert original.header("set-cookie") is None


async def test_a_large_original_comes_in_pieces_and_who_leaves_early_holds_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, _), client_of(app) as client:
        data = b"line after line of it\n" * 100_000
        id = (await made(client, data))["id"]
        whole = await ask(app, "GET", f"{DOCUMENTS}/{id}/original")
        assert (whole.body, whole.is_whole, len(whole.pieces) > 10) == (data, True, True)
        async with asyncio.timeout(10):
            part = await ask(app, "GET", f"{DOCUMENTS}/{id}/original", seen=lambda _: True)
        assert part.body == data[: len(part.body)]


async def test_a_row_whose_blob_is_gone_is_not_found_and_not_half_an_answer(at: Ours) -> None:
    client, services = at
    id = (await made(client))["id"]
    await services.blobs.remove(f"documents/{id}")
    answer = await client.get(f"{DOCUMENTS}/{id}/original")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "content-disposition" not in answer.headers


async def test_erasing_one_takes_its_text_and_its_original_along(at: Ours) -> None:
    client, services = at
    id, other = (await made(client))["id"], (await made(client))["id"]
    answer = await client.delete(f"{DOCUMENTS}/{id}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/text", "/original"):
        assert (await client.get(f"{DOCUMENTS}/{id}{path}")).status_code == 404
    assert (await client.delete(f"{DOCUMENTS}/{id}")).status_code == 404
    assert await blobs(services) == {f"documents/{other}"}
    found = await kept(services)
    assert (found["documents"], found["document_texts"]) == (1, 1)


# Asked about


async def test_an_answer_is_a_generation_like_every_other(at: Ours) -> None:
    client, _ = at
    id = (await made(client))["id"]
    answer = await client.post(f"{DOCUMENTS}/{id}/generations", json={"instruction": "Who swims?", "max_tokens": 5})
    said = answer.json()
    assert (answer.status_code, said["object"], said["kind"], said["status"]) == (
        200,
        "generation",
        "document",
        "completed",
    )
    assert said["input"] == {"document": id, "name": "aare.txt", "instruction": "Who swims?"}
    assert (said["model"], said["parameters"], said["usage"]["completion_tokens"]) == ("echo", {"max_tokens": 5}, 5)
    assert answer.headers["x-loquent-generation"] == said["id"]
    assert (await client.get(f"/api/v1/generations/{said['id']}")).json() == said
    [listed] = (await client.get("/api/v1/generations", params={"kind": "document"})).json()["data"]
    assert listed["id"] == said["id"]


async def test_without_anything_said_it_is_told_what_it_says(at: Ours) -> None:
    client, _ = at
    id = (await made(client))["id"]
    said = (await client.post(f"{DOCUMENTS}/{id}/generations/", json={})).json()
    assert (said["model"], said["status"], said["output"] in TEXT) == ("extractive", "completed", True)
    assert said["sources"]["spans"]


async def test_it_can_be_streamed(at: Ours) -> None:
    client, _ = at
    id = (await made(client))["id"]
    body = {"instruction": "Who swims?", "model": "echo", "stream": True}
    answer = await client.post(f"{DOCUMENTS}/{id}/generations", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = re.findall(r"event: (\w+)\ndata: (.+)\n", answer.text)
    assert (events[0][0], events[-1][0]) == ("delta", "done")
    done = json.loads(events[-1][1])
    assert done["output"] == "".join(json.loads(data)["text"] for name, data in events if name == "delta")


async def test_it_can_be_a_job(at: Ours) -> None:
    client, _ = at
    id = (await made(client))["id"]
    answer = await client.post(f"{DOCUMENTS}/{id}/generations", json={"background": True})
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    async with asyncio.timeout(20):
        while (said := (await client.get(answer.headers["location"])).json())["status"] in ("pending", "processing"):
            await asyncio.sleep(0.02)
    assert (said["status"], said["kind"]) == ("completed", "document")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"stream": True, "background": True}, "job"),
        ({"instruction": "x" * 10_001}, "instruction"),
        ({"instruction": 7}, "instruction"),
        ({"instruction": "Who?", "model": "extractive"}, "model"),
        ({"prompt": "Who?"}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
async def test_what_cannot_be_asked_is_named(at: Ours, body: dict[str, Any], names: str) -> None:
    client, services = at
    id = (await made(client))["id"]
    answer = await client.post(f"{DOCUMENTS}/{id}/generations", json=body)
    assert (answer.status_code, names in answer.text) == (422, True)
    assert (await kept(services))["generations"] == 0


@pytest.mark.parametrize("id", [NOBODYS, "doc_x", "gen_" + "0" * 32, "..%2f..%2fetc%2fpasswd", "%00", "x" * 5_000])
async def test_an_unknown_one_is_not_found(at: Ours, id: str) -> None:
    client, _ = at
    for method, path in (("GET", ""), ("GET", "/text"), ("GET", "/original"), ("DELETE", "")):
        assert (await client.request(method, f"{DOCUMENTS}/{id}{path}")).status_code in (404, 422)
    assert (await client.post(f"{DOCUMENTS}/{id}/generations", json={})).status_code in (404, 422)


async def test_what_somebody_asks_is_nobody_elses_to_see(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as (app, services),
        client_of(app, token_of(services, "ann")) as ann,
        client_of(app, token_of(services, "bob")) as bob,
    ):
        id = (await made(ann))["id"]
        assert (await bob.post(f"{DOCUMENTS}/{id}/generations", json={})).status_code == 404
        assert (await kept(services))["generations"] == 0


# Repeats, rates and bad files


async def test_a_file_sent_again_with_its_key_is_one_document(at: Ours) -> None:
    client, services = at
    key = {"idempotency-key": "the same"}
    first, again = [await client.post(DOCUMENTS, files=part(), headers=key) for _ in range(2)]
    assert (first.json(), again.status_code) == (again.json(), 201)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    for other in (part("another text"), part(name="b.txt")):
        assert (await client.post(DOCUMENTS, files=other, headers=key)).status_code == 422
    assert len(await blobs(services)) == 1
    await client.delete(f"{DOCUMENTS}/{first.json()['id']}")
    anew = await client.post(DOCUMENTS, files=part(), headers=key)
    assert (anew.status_code, anew.json()["id"] != first.json()["id"]) == (201, True)


async def test_a_question_sent_again_with_its_key_is_one_answer(at: Ours) -> None:
    client, services = at
    id = (await made(client))["id"]
    key = {"idempotency-key": "the same"}
    body = {"instruction": "Who swims?"}
    first, again = [await client.post(f"{DOCUMENTS}/{id}/generations", json=body, headers=key) for _ in range(2)]
    assert (first.json(), again.headers["idempotent-replayed"]) == (again.json(), "true")
    assert (await kept(services))["generations"] == 1


async def test_over_the_rate_a_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    limit = {"LOQUENT_LIMIT_GENERATIONS": "1/minute"}
    async with serving(tmp_path, **limit) as (app, services), client_of(app) as client:
        first = await client.post(DOCUMENTS, files=part())
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        over = await client.post(DOCUMENTS, files=part(b"%PDF-1.7 broken", "a.pdf"))
        assert (over.status_code, over.headers["retry-after"].isdecimal()) == (429, True)
        assert len(await blobs(services)) == 1


@pytest.mark.parametrize(
    ("data", "name", "status"),
    [
        (b"", "a.txt", 422),
        (b"\xff\xfe\x80 broken " + "漢字".encode() * 20, "a.txt", 422),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "a.txt", 415),
        (b"MZ" + bytes(60), "a.docx", 415),
        (b"PK\x03\x04 broken", "a.docx", 422),
        (b"%PDF-1.7 broken", "a.pdf", 422),
        (TEXT.encode(), "a.pdf", 415),
        (TEXT.encode(), "a.exe", 415),
        (TEXT.encode(), ".", 422),
        (TEXT.encode(), "\u202e\u200b", 422),
        (b"x" * 30_000, "a.txt", 413),
    ],
)
async def test_a_file_that_cannot_be_taken_leaves_nothing(tmp_path: Path, data: bytes, name: str, status: int) -> None:
    async with serving(tmp_path, LOQUENT_MAX_UPLOAD="20000") as (app, services), client_of(app) as client:
        answer = await client.post(DOCUMENTS, files=part(data, name))
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert not any((await kept(services)).values())
        assert await blobs(services) == set()


async def test_a_json_body_may_not_be_as_large_as_a_file(tmp_path: Path) -> None:
    bounds = {"LOQUENT_MAX_UPLOAD": "20000", "LOQUENT_MAX_BODY": "2000"}
    async with serving(tmp_path, **bounds) as (app, _), client_of(app) as client:
        id = (await made(client, "a line of text\n" * 1_000))["id"]
        body = json.dumps({"instruction": "x" * 3_000}).encode()
        answer = await ask(app, "POST", f"{DOCUMENTS}/{id}/generations", headers=[JSON], body=body)
        assert answer.status == 413


async def test_where_there_is_no_room_for_files_that_is_told_and_nothing_is_lost(at: Ours, tmp_path: Path) -> None:
    client, services = at
    with away(tmp_path / "data" / "blobs"):
        answer = await client.post(DOCUMENTS, files=part())
        assert (answer.status_code, answer.headers["retry-after"].isdecimal()) == (503, True)
        health = (await client.get("/api/v1/health/detailed")).json()
        assert (health["status"], health["checks"]["blobs"] == "ok") == ("degraded", False)
    assert not any((await kept(services)).values())
    assert (await client.post(DOCUMENTS, files=part())).status_code == 201
