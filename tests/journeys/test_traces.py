"""Traces as a collector sees them, of a real server and a real worker: one tree a generation, whoever runs it."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from collector import Collector, Span, children, collecting
from journeys.processes import start
from openai_server import Completions
from scripted import Caller, listening_in_a_thread
from serving import Served, served

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120), pytest.mark.xdist_group("traces")]

SECRET = "the-words-of-the-caller"
CHAT = "/v1/chat/completions"
SERVER, INTERNAL, CLIENT, CONSUMER = 2, 1, 3, 5
ROWS = """
[[model]]
name = "echo"
engine = "echo"
id = "echo"
concurrency = 8

[[model]]
name = "gone"
engine = "openai"
id = "echo"
url = "http://127.0.0.1:9/v1"
fallback = ["echo"]

[[model]]
name = "told"
engine = "openai"
id = "echo"
url = "{url}/v1"
key_env = "ENGINE_KEY"

[[model]]
name = "untold"
engine = "openai"
id = "echo"
url = "{other}/v1"
key_env = "ENGINE_KEY"
"""


@dataclass
class Traced:
    server: Served
    collector: Collector
    engine: list[Caller]  # what the engine behind two of the models was asked


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A server that runs no jobs, a worker that runs them, and the collector of both."""
    folder = tmp_path_factory.mktemp("traced")
    completions, asked = Completions("key"), []

    async def script(caller: Caller) -> None:
        asked.append(Seen(caller.headers))
        await completions(caller)

    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        url = stack.enter_context(listening_in_a_thread(script))
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_SERVICE_NAME": "our-ai",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "LOQUENT_TRACES_TO": "127.0.0.1",
            "LOQUENT_SWEEP_SECONDS": "0.1",
            "ENGINE_KEY": "key",
        }
        worker = start(folder, "worker", **environ)
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        rows = folder / "rows.toml"
        rows.write_text(ROWS.format(url=url, other=url.replace("127.0.0.1", "localhost")))
        named = {"LOQUENT_MODELS": str(rows), "LOQUENT_SERVE_JOBS": "off"}
        server = stack.enter_context(served(folder, **environ, **named))
        yield Traced(server, collector, asked)


@dataclass
class Seen:
    headers: dict[str, str]


def a_trace(flags: str = "01") -> tuple[str, str, dict[str, str]]:
    """A caller's trace and span, and the header that tells of them."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, {"traceparent": f"00-{trace}-{span}-{flags}"}


def ask(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": SECRET}], **more}


def by_name(spans: list[Span]) -> dict[str, Span]:
    return {span.name: span for span in spans}


def test_a_call_is_one_tree_under_its_callers_span(traced: Traced) -> None:
    trace, span, headers = a_trace()
    answer = httpx2.post(f"{traced.server.url}{CHAT}", json=ask("echo", max_tokens=3, seed=7), headers=headers)
    assert answer.status_code == 200
    spans = traced.collector.wait(trace, f"POST {CHAT}", "chat echo", "try echo", "store write")
    found = by_name(spans)
    top, made, tried, wrote = (found[name] for name in (f"POST {CHAT}", "chat echo", "try echo", "store write"))
    assert (top.parent, top.kind) == (span, SERVER)
    assert children(spans, top) == ["chat echo"]
    assert children(spans, made) == ["try echo", "store write"]
    assert [each.error for each in spans] == [None] * 4
    assert {each.service for each in spans} == {"our-ai"}
    assert top.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "loquent.request_id": answer.headers["x-request-id"],
    }
    used = answer.json()["usage"]
    known = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "echo",
        "gen_ai.request.model": "echo",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "echo",
        "gen_ai.response.finish_reasons": [answer.json()["choices"][0]["finish_reason"]],
        "gen_ai.usage.input_tokens": used["prompt_tokens"],
        "gen_ai.usage.output_tokens": used["completion_tokens"],
        "loquent.status": "completed",
        "loquent.mode": "foreground",
    }
    assert made.attributes.items() >= known.items()
    assert made.kind == INTERNAL
    assert made.attributes["gen_ai.response.id"].startswith("gen_")
    assert tried.attributes["loquent.model"] == "echo"
    assert tried.attributes["loquent.waited_seconds"] < 5  # for its place in the line
    assert wrote.attributes["db.system.name"] == "sqlite"
    assert "generations" in wrote.attributes["db.collection.name"]
    assert not any(SECRET.encode() in body for body in traced.collector.bodies)


def test_a_stream_is_one_tree_that_ends_with_its_last_event(traced: Traced) -> None:
    trace, _, headers = a_trace()
    body = ask("echo", stream=True) | {"messages": [{"role": "user", "content": "[slow 0.1] [words 3] one two three"}]}
    answer = httpx2.post(f"{traced.server.url}{CHAT}", json=body, headers=headers)
    assert answer.text.endswith("data: [DONE]\n\n")
    spans = traced.collector.wait(trace, f"POST {CHAT}", "chat echo", "try echo", "store write")
    found = by_name(spans)
    made = found["chat echo"]
    assert children(spans, found[f"POST {CHAT}"]) == ["chat echo"]
    assert children(spans, made) == ["try echo", "store write"]
    assert found[f"POST {CHAT}"].end >= made.end >= found["store write"].end >= found["try echo"].end
    assert made.end - made.begin >= 0.25e9
    assert 0 < made.attributes["gen_ai.response.time_to_first_chunk"] < (made.end - made.begin) / 1e9


def test_a_stream_that_its_caller_leaves_is_told_as_cancelled(traced: Traced) -> None:
    trace, _, headers = a_trace()
    body = ask("echo", stream=True) | {"messages": [{"role": "user", "content": "[slow 0.2] [words 100] on and on"}]}
    with httpx2.stream("POST", f"{traced.server.url}{CHAT}", json=body, headers=headers) as answer:
        next(answer.iter_bytes())
    spans = traced.collector.wait(trace, f"POST {CHAT}", "chat echo", "try echo", "store write")
    assert by_name(spans)["chat echo"].attributes["loquent.status"] == "cancelled"
    assert by_name(spans)["try echo"].attributes["loquent.outcome"] == "cut short"
    assert [span.error for span in spans] == [None] * 4


def test_who_stands_in_is_the_sibling_of_who_failed(traced: Traced) -> None:
    trace, _, headers = a_trace()
    assert httpx2.post(f"{traced.server.url}{CHAT}", json=ask("gone"), headers=headers).status_code == 200
    until = time.monotonic() + 30
    while not any(span.name == f"POST {CHAT}" for span in traced.collector.trace(trace)):
        assert time.monotonic() < until
        time.sleep(0.02)
    spans = traced.collector.trace(trace)
    made = by_name(spans)["chat gone"]
    tries = [span for span in spans if span.name.startswith("try ")]
    assert {span.parent for span in tries} == {made.id}
    assert len(tries) >= 2
    assert {(span.name, span.attributes.get("error.type")) for span in tries[:-1]} == {("try gone", "unavailable")}
    assert all("cannot be reached" in (span.error or "") for span in tries[:-1])
    assert (tries[-1].name, tries[-1].error) == ("try echo", None)
    assert made.attributes["gen_ai.response.model"] == "echo"
    assert made.error is None


def test_an_error_is_told_where_it_was(traced: Traced) -> None:
    trace, _, headers = a_trace()
    body = {"model": "echo", "messages": [{"role": "user", "content": "[fail] now"}]}
    answer = httpx2.post(f"{traced.server.url}{CHAT}", json=body, headers=headers)
    assert answer.status_code >= 500
    spans = traced.collector.wait(trace, f"POST {CHAT}", "chat echo", "try echo", "store write")
    assert [(span.name, span.attributes.get("error.type")) for span in spans] == [
        (f"POST {CHAT}", str(answer.status_code)),
        ("chat echo", "engine_failed"),
        ("try echo", "engine_failed"),
        ("store write", None),
    ]
    assert by_name(spans)["chat echo"].error == "echo: failed, as the prompt said"


def test_a_job_of_another_process_hangs_in_the_tree_of_its_request(traced: Traced) -> None:
    trace, span, headers = a_trace()
    body = {"prompt": SECRET, "model": "echo", "background": True}
    accepted = httpx2.post(f"{traced.server.url}/api/v1/generations", json=body, headers=headers)
    assert accepted.status_code == 202
    names = ("POST /api/v1/generations", "store write", "text_completion echo", "try echo", "store write")
    spans = traced.collector.wait(trace, *names)
    found = by_name(spans)
    top, made = found["POST /api/v1/generations"], found["text_completion echo"]
    assert top.parent == span
    assert made.kind == CONSUMER
    assert children(spans, top) == ["store write", "text_completion echo"]
    assert children(spans, made) == ["try echo", "store write"]
    assert made.attributes["loquent.mode"] == "background"
    assert made.attributes["gen_ai.response.id"] == accepted.json()["id"]
    processes = {span.process for span in spans if span.parent == made.id or span is made}
    assert len(processes) == 1
    assert processes != {top.process}
    assert not any(SECRET.encode() in body for body in traced.collector.bodies)


def test_without_a_callers_trace_a_request_begins_one_and_looks_at_health_begin_none(traced: Traced) -> None:
    for _ in range(2):
        httpx2.get(f"{traced.server.url}/api/v1/health/detailed")
        httpx2.get(f"{traced.server.url}/metrics")
    answer = httpx2.get(f"{traced.server.url}/api/v1/generations/gen_none", headers={"traceparent": "00-broken"})
    until = time.monotonic() + 30
    while not (found := [each for each in traced.collector.spans if _is_answer(each, answer.headers["x-request-id"])]):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert found[0].name == "GET /api/v1/generations/{id}"
    assert found[0].parent == ""
    assert found[0].attributes["http.response.status_code"] == 404
    assert found[0].error is None
    assert not [span for span in traced.collector.spans if "health" in span.name or "metrics" in span.name]


def _is_answer(span: Span, request: str) -> bool:
    return bool(span.attributes.get("loquent.request_id") == request)


def test_a_caller_who_keeps_no_trace_gets_none_here_nor_by_his_job(traced: Traced) -> None:
    unwanted, _, quiet = a_trace("00")
    wanted, _, headers = a_trace()
    body = {"prompt": "hello", "model": "echo", "background": True}
    for each in (quiet, headers):
        httpx2.post(f"{traced.server.url}/api/v1/generations", json=body, headers=each)
    traced.collector.wait(
        wanted, "POST /api/v1/generations", "store write", "text_completion echo", "try echo", "store write"
    )
    assert traced.collector.trace(unwanted) == []


def test_an_engine_is_told_of_the_trace_only_where_a_setting_names_it(traced: Traced) -> None:
    trace, _, headers = a_trace()
    traced.engine.clear()
    for model in ("told", "untold"):
        answer = httpx2.post(f"{traced.server.url}{CHAT}", json=ask(model), headers={**headers, "baggage": "who=ann"})
        assert answer.status_code == 200, answer.text
    spans = traced.collector.wait(
        trace, *2 * (f"POST {CHAT}", "store write"), "chat told", "chat untold", "try told", "try untold"
    )
    told, untold = (seen.headers for seen in traced.engine if "content-length" in seen.headers)
    assert told["traceparent"] == f"00-{trace}-{by_name(spans)['try told'].id}-01"
    assert "baggage" not in told
    assert not untold.keys() & {"traceparent", "tracestate", "baggage"}


def test_a_collector_that_says_nothing_costs_spans_and_nothing_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        with served(tmp_path, **environ) as server, httpx2.Client() as client:
            slowest = 0.0
            for _ in range(100):  # far more spans than may wait
                began = time.monotonic()
                assert client.post(f"{server.url}{CHAT}", json=ask("echo")).status_code == 200
                slowest = max(slowest, time.monotonic() - began)
            stopped = time.monotonic()
        took = time.monotonic() - stopped  # and it has ended with 0: see served
    assert slowest < 5
    assert took < 25  # the wait for the last spans is bounded by 5
    assert "the last spans could not be handed over" in server.log.read_text()
