"""The summaries family's table, row by row; what stands behind it is in test_summaries_api.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from families import Case, both, check

from asking import client_of, kept, serving, token_of
from built import ROWS
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

SUMMARIES, ONE = "/api/v1/summaries/", "/api/v1/summaries/{id}"
TEXT = "The river Aare rises in the Alps. It flows around the old town of Bern. Many people swim in it in summer."
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
HTML = re.compile(r"<!doctype html>.*</html>\s*", re.DOTALL | re.IGNORECASE)
VERSION = re.compile(r"\d+\.\d+.*")
OURS = {"generation_id": re.compile("gen_[0-9a-f]{32}"), "progress": dict | None, "sentences": list}
"""What we add behind the family's own fields."""

PENDING = {
    "id": UUID,
    "status": "pending",
    "summary_text": None,
    "error_message": None,
    "text_length": len(TEXT),
    "summary_length": None,
    "processing_time": None,
    "model_used": None,
    "created_at": TIME,
    "completed_at": None,
    **OURS,
    "progress": None,
    "sentences": [],
}
DONE = PENDING | {
    "status": "completed",
    "summary_text": str,
    "summary_length": int,
    "processing_time": float,
    "model_used": "extractive",
    "completed_at": TIME,
    "progress": {"done": 1, "of": 1},
    "sentences": [{"start": int, "end": int, "text": str}],
}
FAILED = PENDING | {
    "status": "failed",
    "error_message": lambda said: isinstance(said, str) and 0 < len(said) <= 500,
    "text_length": int,
    "completed_at": TIME,
    "processing_time": float,
    "progress": dict | None,
}
PROBLEM = {"type": str, "title": str, "status": int, "detail": str, "code": str, "request_id": str}
NAMED = PROBLEM | {"field": str}
NOT_FOUND = PROBLEM | {"status": 404, "detail": "Summary not found"}
DETAILED = {"status": "healthy", "service": "loquent", "version": VERSION}
PARTS = ("database", "blobs", "limiter", "queue", "disk", "cache")
CHECKS = dict.fromkeys((*PARTS, *(f"model:{name}" for name in re.findall('name = "(.+)"', ROWS))), "ok")
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    limit = {"LOQUENT_LIMIT_SUMMARIES": "10/minute, 100/hour"}
    async with serving(tmp_path, **limit) as (app, services), client_of(app) as client:
        yield client, services


def text_of(length: int) -> str:
    return ("word " * 10_001)[: length - 1] + "x"


async def asked(client: httpx2.AsyncClient, text: str = TEXT, **more: Any) -> Mapping[str, Any]:
    """Something was asked for."""
    return {"id": (await client.post(SUMMARIES, json={"text": text, **more})).json()["id"]}


async def done(client: httpx2.AsyncClient, text: str = TEXT, **more: Any) -> Mapping[str, Any]:
    """The same, and it is over."""
    known = await asked(client, text, **more)
    async with asyncio.timeout(20):
        while (await client.get(f"{SUMMARIES}{known['id']}")).json()["status"] in ("pending", "processing"):
            await asyncio.sleep(0.02)
    return known


async def failed(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """One was asked for that fails."""
    return await done(client, f"{TEXT} [fail]", model="echo")


async def two_done(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """Two were, and both are over."""
    return {"first": (await done(client))["id"], "second": (await done(client))["id"]}


async def ten(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """The minute's were all asked for."""
    for _ in range(10):
        assert (await client.post(SUMMARIES, json={"text": TEXT})).status_code == 201
    return {}


def post(name: str, status: int, shape: Any, before: Any = None, headers: Any = None, **ask: Any) -> Case:
    more = {"before": before} if before else {}
    return Case(f"POST {SUMMARIES}", name, status, shape, ask, headers=headers or {}, **more)


def page(name: str, code: int, shape: Any, before: Any = None, **params: Any) -> Case:
    more = {"before": before} if before else {}
    return Case(f"GET {SUMMARIES}", name, code, shape, {"params": params}, **more)


def listed(*rows: Any, page: int = 1, per_page: int = 20, total: int | None = None) -> dict[str, Any]:
    number = len(rows) if total is None else total
    return {"summaries": list(rows), "total": number, "page": page, "per_page": per_page}


SECOND, FIRST = DONE | {"id": "{second}"}, DONE | {"id": "{first}"}
CASES = [
    post("a text", 201, PENDING, json={"text": f"  {TEXT}\n"}),
    post("49 characters", 422, NAMED | {"field": "text"}, json={"text": text_of(49)}),
    post("49 and blanks", 422, NAMED | {"field": "text"}, json={"text": f"  {text_of(49)}\n"}),
    post("50 characters", 201, PENDING | {"text_length": 50}, json={"text": text_of(50)}),
    post("50,000 characters", 201, PENDING | {"text_length": 50_000}, json={"text": text_of(50_000)}),
    post("50,001 characters", 422, NAMED | {"field": "text"}, json={"text": text_of(50_001)}),
    post("10 MB", 413, PROBLEM, json={"text": "x" * 10_000_000}),
    post("blank", 422, NAMED, json={"text": " \n\t "}),
    post("no text", 422, NAMED, json={}),
    post("text of another type", 422, NAMED, json={"text": 7}),
    post("no text but null", 422, NAMED, json={"text": None}),
    post("a field that is not there", 422, NAMED, json={"text": TEXT, "more": 1}),
    post("no JSON", 415, PROBLEM, content=b"text"),
    post(
        "an eleventh in a minute",
        429,
        PROBLEM,
        before=ten,
        headers={"retry-after": lambda said: 0 < int(said) <= 60},
        json={"text": TEXT},
    ),
    Case(f"GET {ONE}", "done", 200, DONE | {"id": "{id}"}, before=done),
    Case(f"GET {ONE}", "failed", 200, FAILED | {"id": "{id}"}, before=failed),
    Case(f"GET {ONE}", "unknown", 404, NOT_FOUND, path=f"{SUMMARIES}{uuid4()}"),
    Case(f"GET {ONE}", "malformed", 404, NOT_FOUND, path=f"{SUMMARIES}nonsense"),
    page("none", 200, listed()),
    page("all, the newest first", 200, listed(SECOND, FIRST), two_done),
    page("a page", 200, listed(FIRST, page=2, per_page=1, total=2), two_done, page=2, per_page=1),
    page("behind the last", 200, listed(page=3, per_page=1, total=2), two_done, page=3, per_page=1),
    page("by status", 200, listed(SECOND, FIRST), two_done, status="completed"),
    page("by a status that none has", 200, listed(), two_done, status="failed"),
    page("page 0", 422, NAMED, page=0),
    page("per_page 0", 422, NAMED, per_page=0),
    page("per_page 100", 200, listed(per_page=100), per_page=100),
    page("per_page 101", 422, NAMED, per_page=101),
    page("a page that is no number", 422, NAMED, page="x"),
    page("a status that there is not", 422, NAMED, status="asleep"),
    Case("GET /api/v1/health", "healthy", 200, DETAILED),
    Case("GET /api/v1/health/detailed", "healthy", 200, {**DETAILED, "checks": CHECKS}),
    Case("GET /api/v1/docs", "a page", 200, HTML),
    Case("GET /api/v1/redoc", "a page", 200, HTML),
    Case(
        "GET /api/v1/openapi.json",
        "the document",
        200,
        lambda said: said["openapi"].startswith("3.") and "/api/v1/summaries" in said["paths"],
    ),
]


@pytest.mark.parametrize(("case", "slash"), both(CASES), ids=lambda each: each.id if isinstance(each, Case) else None)
async def test_each_row_is_as_the_table_says(at: Ours, case: Case, slash: bool) -> None:
    client, services = at
    await check(client, case, slash)
    if case.status in (413, 415, 422):
        assert (await kept(services))["generations"] == 0


async def test_a_part_that_fails_makes_the_whole_degraded(tmp_path: Path) -> None:
    rows = tmp_path / "away.toml"
    row = 'name = "away"\nengine = "openai"\nid = "away"\nurl = "http://127.0.0.1:9/v1"\n'
    await asyncio.to_thread(rows.write_text, f"[[model]]\n{row}")
    async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, _), client_of(app) as client:
        case = Case(
            "GET /api/v1/health/detailed",
            "degraded",
            200,
            {
                **DETAILED,
                "status": "degraded",
                "checks": {**dict.fromkeys(PARTS, "ok"), "model:away": str, "model:extractive": "ok"},
            },
        )
        for slash in (False, True):
            answer = await check(client, case, slash)
            assert answer.json()["checks"]["model:away"] != "ok"


async def test_a_token_is_honoured_and_a_bad_one_refused(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as (app, services),
        client_of(app, token_of(services, "ann")) as ann,
        client_of(app) as nobody,
    ):
        known = await asked(ann)
        assert (await ann.get(SUMMARIES)).json()["total"] == 1
        assert (await nobody.get(SUMMARIES)).json()["total"] == 0
        assert (await nobody.get(f"{SUMMARIES}{known['id']}")).json()["detail"] == "Summary not found"
        for token in ("forged.forged.forged", "", "x" * 5_000):
            answer = await nobody.get(SUMMARIES, headers={"authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


async def test_without_anonymous_access_a_login_is_required(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_ANONYMOUS="off") as (app, _), client_of(app) as client:
        for answer in (await client.post(SUMMARIES, json={"text": TEXT}), await client.get(SUMMARIES)):
            assert answer.status_code == 401
        assert (await client.get("/api/v1/health")).status_code == 200
