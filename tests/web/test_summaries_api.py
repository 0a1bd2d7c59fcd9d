"""Summaries over HTTP: exactly the family's table, and files."""

from __future__ import annotations

import asyncio
import io
import re
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import docx
import httpx2
import pytest
import time_machine

from asking import client_of, kept, serving, token_of
from loquent.wiring import Services
from samples import pdfs

pytestmark = pytest.mark.anyio

SPELLINGS = ("/api/v1/summaries/", "/api/v1/summaries")
FILES = "/api/v1/summaries/files"
PAST = "2026-01-31T12:00Z"
TEXT = " ".join(pdfs.PROSE)
KEYS = ["id", "status", "summary_text", "error_message", "text_length", "summary_length"]
KEYS += ["processing_time", "model_used", "created_at", "completed_at"]
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        yield client, services


async def over(client: httpx2.AsyncClient, id: str) -> dict[str, Any]:
    """A summary once it has ended."""
    async with asyncio.timeout(30):
        while (found := (await client.get(f"{SPELLINGS[0]}{id}")).json())["status"] in ("pending", "processing"):
            await asyncio.sleep(0.02)
    return found


def is_time(text: str) -> bool:
    return datetime.fromisoformat(text).tzinfo is not None


@pytest.mark.parametrize("path", SPELLINGS)
async def test_a_text_is_taken_at_once_and_summarized_later(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, works=False) as (app, services), client_of(app) as client:
        answer = await client.post(path, json={"text": f"  {TEXT}\n"})
        said = answer.json()
        assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")
        assert list(said)[: len(KEYS)] == KEYS
        assert said["id"] == str(uuid.UUID(said["id"]))
        assert (said["status"], said["text_length"], is_time(said["created_at"])) == ("pending", len(TEXT), True)
        none = ("summary_text", "error_message", "summary_length", "processing_time", "model_used", "completed_at")
        assert [said[name] for name in none] == [None] * len(none)
        assert answer.headers["location"] == f"/api/v1/summaries/{said['id']}"
        again = await client.get(f"{path.rstrip('/')}/{said['id']}{'/' if path.endswith('/') else ''}")
        assert (again.status_code, again.json()) == (200, said)
        await services.worker.open(alone=False)
        done = await over(client, said["id"])
    assert list(done)[: len(KEYS)] == KEYS
    assert (done["status"], done["error_message"], done["model_used"]) == ("completed", None, "extractive")
    assert 0 < done["summary_length"] == len(done["summary_text"]) < len(TEXT)
    assert done["text_length"] == len(TEXT)
    assert isinstance(done["processing_time"], float)
    assert done["created_at"] <= done["completed_at"]
    assert all(TEXT[each["start"] : each["end"]] == each["text"] for each in done["sentences"])
    assert done["sentences"]


@pytest.mark.parametrize("path", SPELLINGS)
async def test_a_text_has_50_to_50_000_characters_after_trimming(at: Ours, path: str) -> None:
    client, services = at
    for length, status in ((49, 422), (50, 201), (50_000, 201), (50_001, 422)):
        text = ("word " * 10_001)[: length - 1] + "x"
        answer = await client.post(path, json={"text": f"\n {text}\t "})
        assert answer.status_code == status, length
        if status == 422:
            assert str(length) in answer.json()["detail"]
            assert answer.json()["field"] == "text"
    assert (await kept(services))["generations"] == 2


async def test_the_bounds_can_be_set(tmp_path: Path) -> None:
    bounds = {"MIN_TEXT_LENGTH": "3", "MAX_TEXT_LENGTH": "5"}
    async with serving(tmp_path, works=False, **bounds) as (app, _), client_of(app) as client:
        statuses = [
            (await client.post(SPELLINGS[0], json={"text": "x" * length})).status_code for length in (2, 3, 5, 6)
        ]
    assert statuses == [422, 201, 201, 422]


@pytest.mark.parametrize("spelling", ["{}", "{}/"])
async def test_an_unknown_one_is_not_found_in_these_words(at: Ours, spelling: str) -> None:
    client, _ = at
    made = (await client.post("/api/v1/generations", json={"prompt": "no summary"})).json()["id"]
    plain = uuid.UUID(hex=made.removeprefix("gen_"))
    for id in (str(uuid.uuid4()), "nonsense", made, str(plain), plain.hex, f"{{{plain}}}"):
        answer = await client.get(f"/api/v1/summaries/{spelling.format(id)}")
        assert (answer.status_code, answer.json()["detail"]) == (404, "Summary not found"), id


@pytest.mark.parametrize("path", SPELLINGS)
async def test_pages_have_numbers_and_a_total(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, works=False) as (app, _), client_of(app) as client:
        made = [(await client.post(path, json={"text": TEXT})).json()["id"] for _ in range(5)]
        await client.post("/api/v1/generations", json={"prompt": "not a summary"})
        pages = [(await client.get(path, params={"page": page, "per_page": 2})).json() for page in (1, 2, 3, 4)]
        plain = (await client.get(path)).json()
        bounds = {
            query: (await client.get(f"{path}?{query}")).status_code
            for query in ("page=0", "page=1", "per_page=0", "per_page=1", "per_page=100", "per_page=101", "page=100000")
        }
    assert [[each["id"] for each in page["summaries"]] for page in pages] == [made[:2:-1], made[2:0:-1], made[:1], []]
    assert [list(page) for page in pages] == [["summaries", "total", "page", "per_page"]] * 4
    assert [(page["total"], page["page"], page["per_page"]) for page in pages] == [(5, n, 2) for n in (1, 2, 3, 4)]
    assert (plain["page"], plain["per_page"], plain["total"]) == (1, 20, 5)
    assert [list(each)[: len(KEYS)] for each in plain["summaries"]] == [KEYS] * 5
    assert {query for query, status in bounds.items() if status == 422} == {"page=0", "per_page=0", "per_page=101"}
    assert set(bounds.values()) == {200, 422}


async def test_lists_are_narrowed_by_status(at: Ours) -> None:
    client, _ = at
    done = await over(client, (await client.post(SPELLINGS[0], json={"text": TEXT})).json()["id"])
    body = {"text": f"[fail] {TEXT}", "model": "echo"}
    failed = await over(client, (await client.post(SPELLINGS[0], json=body)).json()["id"])
    assert (failed["status"], failed["summary_text"], failed["summary_length"]) == ("failed", None, None)
    assert 0 < len(failed["error_message"]) <= 500
    for status, ids in (("completed", [done["id"]]), ("failed", [failed["id"]]), ("pending", [])):
        page = (await client.get(SPELLINGS[0], params={"status": status})).json()
        assert ([each["id"] for each in page["summaries"]], page["total"]) == (ids, len(ids))


async def test_a_cancelled_one_is_failed_in_the_familys_words_also_in_lists(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False) as (app, _), client_of(app) as client:
        made = (await client.post(SPELLINGS[0], json={"text": TEXT})).json()
        await client.post(f"/api/v1/generations/{made['generation_id']}/cancel")
        said = (await client.get(f"{SPELLINGS[0]}{made['id']}")).json()
        assert (said["status"], said["error_message"]) == ("failed", "it was cancelled")


async def test_the_11th_in_a_minute_is_refused_and_waiting_as_told_succeeds(tmp_path: Path) -> None:
    limits = {"LOQUENT_LIMIT_SUMMARIES": "10/minute, 100/hour"}
    async with serving(tmp_path, works=False, **limits) as (app, services), client_of(app) as client:
        with time_machine.travel(PAST, tick=False) as clock:
            for number in range(10):
                answer = await client.post(SPELLINGS[0], json={"text": TEXT})
                assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (201, str(9 - number))
                clock.shift(1)
            refused = await client.post(SPELLINGS[0], json={"text": TEXT})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "50")
            clock.shift(int(refused.headers["retry-after"]))
            assert (await client.post(SPELLINGS[0], json={"text": TEXT})).status_code == 201
            assert (await client.post(SPELLINGS[1], json={"text": TEXT})).status_code == 429
        assert (await kept(services))["generations"] == 11


async def test_the_101st_in_an_hour_is_refused_too(tmp_path: Path) -> None:
    limits = {"LOQUENT_LIMIT_SUMMARIES": "10/minute, 100/hour"}
    async with serving(tmp_path, works=False, **limits) as (app, _), client_of(app) as client:
        with time_machine.travel(PAST, tick=False) as clock:
            for _ in range(100):
                assert (await client.post(SPELLINGS[0], json={"text": TEXT})).status_code == 201
                clock.shift(6)
            refused = await client.post(SPELLINGS[0], json={"text": TEXT})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "3000")
            clock.shift(3000)
            assert (await client.post(SPELLINGS[0], json={"text": TEXT})).status_code == 201


async def test_a_token_is_honoured(at: Ours) -> None:
    client, services = at
    headers = {"authorization": f"Bearer {token_of(services, 'ann')}"}
    id = (await client.post(SPELLINGS[0], json={"text": TEXT}, headers=headers)).json()["id"]
    assert (await client.get(f"{SPELLINGS[0]}{id}", headers=headers)).status_code == 200
    assert (await client.get(f"{SPELLINGS[0]}{id}")).status_code == 404
    assert (await client.get(SPELLINGS[0])).json()["total"] == 0


async def test_a_length_a_language_and_a_model_can_be_asked_for(at: Ours) -> None:
    client, _ = at
    words = (*TEXT.split(), *TEXT.split()[::-1])
    facts = (f"In {1700 + n} the {words[n % 97]} and {words[n * 5 % 89]} had {n * n} guests." for n in range(400))
    long = " ".join(facts)
    found = {}
    for length in ("short", "medium", "long"):
        id = (await client.post(SPELLINGS[0], json={"text": long, "length": length})).json()["id"]
        found[length] = (await over(client, id))["summary_length"]
    assert found["short"] < found["medium"] <= found["long"]
    body = {"text": TEXT, "model": "echo", "language": "German"}
    said = await over(client, (await client.post(SPELLINGS[0], json=body)).json()["id"])
    assert (said["model_used"], "German" in said["summary_text"]) == ("echo", True)
    for bad, field in (
        ({"length": "endless"}, "length"),
        ({"language": "German"}, "language"),
        ({"model": ""}, "model"),
    ):
        answer = await client.post(SPELLINGS[0], json={"text": TEXT, **bad})
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert (await client.post(SPELLINGS[0], json={"text": TEXT, "model": "gpt-9"})).status_code == 404


# Files


def word_document() -> bytes:
    document, out = docx.Document(), io.BytesIO()
    for line in pdfs.PROSE:
        document.add_paragraph(line)
    document.save(out)
    return out.getvalue()


@pytest.mark.parametrize("path", [FILES, f"{FILES}/"])
@pytest.mark.parametrize(
    ("name", "content", "kind", "pages"),
    [
        ("a.txt", TEXT.encode(), "txt", None),
        ("a.MD", f"# Harbour\n\n{TEXT}".encode(), "md", None),
        ("a.pdf", pdfs.book(3), "pdf", 3),
        ("a.docx", word_document(), "docx", None),
    ],
    ids=lambda each: each[:12] if isinstance(each, str) else "-",
)
async def test_files_are_read_and_summarized(
    at: Ours, path: str, name: str, content: bytes, kind: str, pages: int | None
) -> None:
    client, _ = at
    answer = await client.post(path, files={"file": (name, content)}, data={"length": "short"})
    said = answer.json()
    assert (answer.status_code, said["status"], list(said)[: len(KEYS)]) == (201, "pending", KEYS)
    assert said["file"] == {"kind": kind, "pages": pages}
    done = await over(client, said["id"])
    assert done["status"] == "completed"
    assert re.search("harbour|quarry", done["summary_text"])


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd.txt", "/etc/passwd.txt", "C:\\temp\\a.txt", "x" * 1_000 + ".txt", "ünï.txt"]
)
async def test_a_name_is_only_looked_at_for_its_ending(at: Ours, name: str) -> None:
    client, _ = at
    answer = await client.post(FILES, files={"file": (name, TEXT.encode())})
    assert answer.status_code == 201
    assert "passwd" not in answer.text


@pytest.mark.parametrize(
    ("name", "content", "status", "names"),
    [
        ("a.txt", b"", 422, "empty"),
        ("a.txt", b" \n\t ", 422, "no text"),
        ("a.pdf", TEXT.encode(), 415, "text"),
        ("a.txt", pdfs.book(1), 415, "PDF"),
        ("a.docx", pdfs.book(1), 415, "PDF"),
        ("a.pdf", word_document(), 415, "Word"),
        ("a.pdf", pdfs.book(1)[:300], 422, "PDF"),
        ("a.docx", word_document()[:500], 422, "broken"),
        ("a.exe", b"MZ\0\0", 415, ".exe"),
        ("a.txt", b"\x7fELF\0\0\0\0", 415, "program"),
        ("a.pdf", pdfs.scan(), 422, ""),
        ("a.pdf", pdfs.swollen(), 413, ""),
    ],
    ids=lambda each: each[:12] if isinstance(each, str) else "-",
)
async def test_a_bad_file_is_refused_and_nothing_is_kept(
    at: Ours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, status: int, names: str
) -> None:
    client, services = at
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(uploads))
    answer = await client.post(FILES, files={"file": (name, content)})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert re.search(re.escape(names), answer.json()["detail"])
    assert not any((await kept(services)).values())
    assert list(uploads.iterdir()) == []


async def test_one_file_is_one_file(at: Ours) -> None:
    client, services = at
    two = [("file", ("a.txt", TEXT.encode())), ("file", ("b.txt", TEXT.encode()))]
    for answer in (
        await client.post(FILES, files=two),
        await client.post(FILES, data={"length": "short"}, files={"other": ("a.txt", b"x")}),
        await client.post(FILES, files={"file": ("", TEXT.encode())}),
        await client.post(FILES, files={"file": ("a.txt", TEXT.encode())}, data={"length": "endless"}),
        await client.post(FILES, files={"file": ("a.txt", TEXT.encode())}, data={"model": "x" * 201}),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert not any((await kept(services)).values())


async def test_the_text_of_a_file_may_be_longer_than_a_text_and_has_a_bound_too(tmp_path: Path) -> None:
    bounds = {"MAX_TEXT_LENGTH": "1000", "LOQUENT_MAX_FILE_TEXT": "5000"}
    async with serving(tmp_path, **bounds) as (app, _), client_of(app) as client:
        longer = "A line of the long text of this file. " * 100
        assert (await client.post(SPELLINGS[0], json={"text": longer})).status_code == 422
        answer = await client.post(FILES, files={"file": ("a.txt", longer.encode())})
        assert (answer.status_code, answer.json()["text_length"]) == (201, len(longer.strip()))
        too_long = await client.post(FILES, files={"file": ("a.txt", (longer * 2).encode())})
        assert (too_long.status_code, "5,000" in too_long.text or "5000" in too_long.text) == (413, True)


async def test_over_the_rate_a_file_is_refused(tmp_path: Path) -> None:
    limit = {"LOQUENT_LIMIT_SUMMARIES": "1/minute"}
    async with serving(tmp_path, works=False, **limit) as (app, services), client_of(app) as client:
        statuses = [(await client.post(FILES, files={"file": ("a.txt", TEXT.encode())})).status_code for _ in range(2)]
        assert (statuses, (await kept(services))["generations"]) == ([201, 429], 1)
