"""Health and metrics: for people, load balancers and monitors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from asking import JSON, ask, client_of, fresh, serving
from built import ROWS, settings_for
from loquent import __version__
from loquent.services import metrics
from loquent.services.breaker import FAULTS, Breaker
from loquent.services.metrics import registry
from loquent.web.app import create_app
from loquent.web.edge import Edge
from loquent.web.siblings import Siblings, together
from loquent.wiring import Services, build
from surfaces import ACCESS

pytestmark = pytest.mark.anyio

Ours = tuple[httpx2.AsyncClient, Edge, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        yield client, app, services


@pytest.mark.parametrize("slash", ["", "/"])
async def test_health_is_told_in_the_familys_form(at: Ours, slash: str) -> None:
    client, _, _ = at
    known = {"status": "healthy", "service": "loquent", "version": __version__}
    answer = await client.get(f"/api/v1/health{slash}")
    assert (answer.status_code, answer.json()) == (200, known)
    detailed = (await client.get(f"/api/v1/health/detailed{slash}")).json()
    checks = detailed.pop("checks")
    assert detailed == known
    assert checks["database"] == "ok"
    for path in ("live", "ready"):
        answer = await client.get(f"/api/v1/health/{path}{slash}")
        assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})


async def test_a_part_that_is_away_degrades_health_and_readiness_and_not_liveness(at: Ours) -> None:
    client, _, services = at
    await services.store.close()
    assert (await client.get("/api/v1/health")).json()["status"] == "healthy"
    assert (await client.get("/api/v1/health/live")).status_code == 200
    detailed = await client.get("/api/v1/health/detailed")
    assert (detailed.status_code, detailed.json()["status"]) == (200, "degraded")
    assert detailed.json()["checks"]["database"] != "ok"
    ready = await client.get("/api/v1/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "degraded"})
    refused = await client.get("/api/v1/generations")
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    await services.store.open()
    assert (await client.get("/api/v1/health/ready")).status_code == 200


async def test_every_answer_carries_its_id_and_the_guards_of_browsers(at: Ours) -> None:
    client, _, _ = at
    for path in ("/api/v1/health", "/nowhere", "/v1/models", "/v1/nowhere", "/metrics", "/"):
        headers = (await client.get(path)).headers
        assert headers["x-request-id"].startswith("req_")
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


async def test_metrics_are_prometheus_and_count_what_was_done(at: Ours) -> None:
    client, _, _ = at

    async def count(name: str, **labels: str) -> float:
        page = await client.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        samples = [each for family in text_string_to_metric_families(page.text) for each in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    wanted = {"model": "echo", "status": "completed"}
    done, tokens = await count("loquent_generations_total", **wanted), await count("loquent_tokens_total")
    asked = await count("loquent_requests_total", route="/api/v1/generations", status="200")
    await client.post("/api/v1/generations/", json={"prompt": "one two three"})
    assert await count("loquent_generations_total", **wanted) == done + 1
    assert await count("loquent_tokens_total") == tokens + 6
    assert await count("loquent_requests_total", route="/api/v1/generations", status="200") == asked + 1
    assert await count("loquent_running_generations") == 0


async def test_no_label_takes_what_callers_make_up(at: Ours) -> None:
    client, app, _ = at
    before = _models((await client.get("/metrics")).text)  # the counters are the process's, not this test's alone
    for number in range(50):
        await client.get(f"/api/v1/generations/{fresh()}")
        await client.get(f"/nowhere/{number}")
        await client.get(f"/v1/models/model-{number}")
        await client.get(f"/static/x/{number}")
        await client.get(f"/api/v1/generations?kind=kind{number}")
        await client.request(f"M{number}", "/api/v1/health")
        await client.post("/api/v1/generations", json={"prompt": "x", "model": f"model-{number}"})
        await ask(app, "POST", "/v1/chat/completions/", headers=[JSON], body=b"{%d" % number)
    page = (await client.get("/metrics")).text
    routes = {
        each.labels["route"]
        for family in text_string_to_metric_families(page)
        for each in family.samples
        if "route" in each.labels
    }
    assert routes <= {path for _, path in ACCESS} | {"none"}
    assert _models(page) <= before | {"echo", "extractive", "prompt-only"}
    assert len(page.splitlines()) < 3_000


async def test_metrics_can_be_switched_off(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, LOQUENT_METRICS="off") as (app, _), client_of(app) as client:
        assert (await client.get("/metrics")).status_code == 404


def _models(page: str) -> set[str]:
    families = text_string_to_metric_families(page)
    return {each.labels["model"] for family in families for each in family.samples if "model" in each.labels}


FELL = {"model": "frail", "answered_by": "sound"}
ABSENT = """
[[model]]
name = "absent"
engine = "llama"
id = "absent.gguf"
"""


async def test_an_offer_that_nobody_has_fetched_is_no_fault_until_it_is_the_default(tmp_path: Path) -> None:
    rows = tmp_path / "rows.toml"
    rows.write_text(ROWS + ABSENT, "utf-8")
    for default, word in (("", "healthy"), ("absent", "degraded")):
        environ = {"LOQUENT_MODELS": str(rows), "LOQUENT_MODEL": default}
        async with serving(tmp_path, **environ) as (app, _), client_of(app) as client:
            told = (await client.get("/api/v1/health/detailed")).json()
        assert (told["status"], "models pull absent" in told["checks"]["model:absent"]) == (word, True)


PAIR = """
[[model]]
name = "frail"
engine = "echo"
id = "echo"
concurrency = 1
fallback = ["sound"]
retries = 0

[[model]]
name = "frail"
engine = "echo"
id = "echo"
fallback = ["sound"]
weight = 0.000001

[[model]]
name = "sound"
engine = "echo"
id = "echo"
"""
IDLE = {"sound": 0, "extractive": 0}


async def test_an_engine_that_is_left_alone_is_told_of_by_health_and_metrics(tmp_path: Path) -> None:
    rows = tmp_path / "rows.toml"
    rows.write_text(PAIR, "utf-8")
    async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, services), client_of(app) as client:

        async def gauges(name: str) -> dict[str, float]:
            families = text_string_to_metric_families((await client.get("/metrics")).text)
            return {each.labels["model"]: each.value for it in families for each in it.samples if each.name == name}

        assert await gauges("loquent_breaker_state") == {"frail": 0, "frail#2": 0, **IDLE}
        way = services.models.offers["frail"]
        assert way.gate is not None
        way.breaker = Breaker(lambda: 1_000.0)  # a clock that stands: the machine may be slow
        for _ in range(FAULTS):
            way.breaker.leave(False)
        entered = await way.gate.enter("ann", 1)
        waiting = asyncio.create_task(way.gate.enter("bob", 60))
        await asyncio.sleep(0)
        assert await gauges("loquent_breaker_state") == {"frail": 2, "frail#2": 0, **IDLE}
        assert await gauges("loquent_waiting_calls") == {"frail": 1, "frail#2": 0, **IDLE}
        told = (await client.get("/api/v1/health/detailed")).json()
        assert told["status"] == "degraded"
        assert "left alone for 2 seconds" in told["checks"].pop("model:frail")
        assert {told["checks"][f"model:{name}"] for name in ("frail#2", "sound")} == {"ok"}
        way.gate.leave(entered)
        way.gate.leave(await waiting)


async def test_an_answer_in_anothers_place_is_counted_and_is_on_the_record(tmp_path: Path) -> None:
    rows = tmp_path / "rows.toml"
    rows.write_text(PAIR, "utf-8")
    async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, services), client_of(app) as client:
        before = registry.get_sample_value("loquent_fallbacks_total", FELL) or 0
        for way in services.models.offers["frail"].groups[0]:
            way.breaker.rest(60)
        made = (await client.post("/api/v1/generations", json={"prompt": "one", "model": "frail"})).json()
        assert (made["model"], made["answered_by"], made["output"]) == ("frail", "sound", "one")
        assert "tries" not in made  # nobody else was called
        assert registry.get_sample_value("loquent_fallbacks_total", FELL) == before + 1


PAGE = b"""# HELP asked_total What was asked.
# TYPE asked_total counter
asked_total{route="/a, b"} 2.0
asked_total{route="/c"} 1.0
# HELP idle Nothing yet.
# TYPE idle gauge
# HELP running What runs.
# TYPE running gauge
running 3.0
"""


def test_the_metrics_of_several_processes_are_one_page_that_tells_them_apart() -> None:
    families = list(text_string_to_metric_families(together({"1": PAGE, "0": PAGE, "2": b""}).decode()))
    assert [family.name for family in families] == ["asked", "idle", "running"]
    found = [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
    assert found == [
        *(("asked_total", {"process": "0", "route": route}, value) for route, value in (("/a, b", 2.0), ("/c", 1.0))),
        *(("asked_total", {"process": "1", "route": route}, value) for route, value in (("/a, b", 2.0), ("/c", 1.0))),
        *(("running", {"process": number}, 3.0) for number in ("0", "1")),
    ]


async def own() -> bytes:
    return metrics.page()


async def test_a_process_that_has_died_is_left_out_of_the_page(tmp_path: Path) -> None:
    one, other = Siblings(), Siblings()
    await one.join(tmp_path, 0, own)
    await other.join(tmp_path, 1, own)
    try:
        both = (await one.page(own)).decode()
        assert 'loquent_running_generations{process="0"}' in both
        assert 'loquent_running_generations{process="1"}' in both
    finally:
        await other.leave()
    (tmp_path / "1.metrics").touch()  # as a kill leaves it
    try:
        assert 'process="1"' not in (await one.page(own)).decode()
    finally:
        await one.leave()


async def test_one_that_is_being_replaced_is_on_the_page_until_it_has_ended(tmp_path: Path) -> None:
    former, new, next_one = Siblings(), Siblings(), Siblings()

    def told(page: bytes) -> list[str]:
        return re.findall(r'^loquent_running_generations{process="(\w+)"}', page.decode(), re.MULTILINE)

    await former.join(tmp_path, 0, own)
    try:
        await new.join(tmp_path, 0, own)
        assert told(await former.page(own)) == told(await new.page(own)) == ["0", "0b"]
        await former.leave()
        assert told(await new.page(own)) == ["0b"]
        await next_one.join(tmp_path, 0, own)
        assert told(await new.page(own)) == ["0", "0b"]
    finally:
        for each in (former, new, next_one):
            await each.leave()


async def test_a_server_that_starts_what_it_serves_opens_and_closes_the_services(tmp_path: Path) -> None:
    app = create_app(build(settings_for(tmp_path)))
    orders, told = iter(("lifespan.startup", "lifespan.shutdown")), []

    async def receive() -> dict[str, str]:
        if told:
            told.append(str((await ask(app, "GET", "/api/v1/health/ready")).status))
        return {"type": next(orders)}

    async def send(message: Mapping[str, Any]) -> None:
        told.append(message["type"])

    await app({"type": "lifespan", "app": app, "state": {}}, receive, send)
    assert told == ["lifespan.startup.complete", "200", "lifespan.shutdown.complete"]
