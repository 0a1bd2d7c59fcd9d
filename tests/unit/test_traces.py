"""Traces: what the spans of generations say, when there are none at all, and a collector that is away."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from built import ANN, opened, wanted
from collector import Collector, Span, collecting
from loquent import tracers
from loquent.domain.errors import EngineFailed, Misconfigured
from loquent.domain.generations import Content, Generation
from loquent.domain.requests import Parameters
from loquent.ports.store import Remove
from loquent.ports.tracer import INTERNAL, current
from loquent.services.wanted import Begun
from loquent.settings.environment import load_settings
from loquent.wiring import Services, build

pytestmark = pytest.mark.anyio
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> object:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        yield collector


@asynccontextmanager
async def traced(folder: Path, *, works: bool = True, **environ: str) -> AsyncIterator[Services]:
    """Services whose spans have all been handed over when this is left."""
    async with opened(folder, works=works, **{ENDPOINT: os.environ[ENDPOINT], **environ}) as services:
        yield services


def only(collector: Collector, name: str) -> Span:
    [found] = [span for span in collector.spans if span.name == name]
    return found


async def over(services: Services, begun: Begun) -> Generation:
    async with asyncio.timeout(30):
        while not (found := await services.generations.get(ANN, begun.generation.id))[0].is_over:
            await asyncio.sleep(0.02)
    return found[0]


async def test_words_are_told_only_where_they_may_be_logged(tmp_path: Path, collector: Collector) -> None:
    for said in ("off", "on"):
        async with traced(tmp_path, LOQUENT_LOG_CONTENT=said) as services:
            await services.generations.collect(await services.generations.begin(ANN, wanted(f"words when {said}")))
    quiet, open_ = (span.attributes for span in collector.spans if span.name == "text_completion echo")
    assert not [name for name in quiet if name.endswith("messages")]
    assert json.loads(open_["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "words when on"}]}
    ]
    assert json.loads(open_["gen_ai.output.messages"])[0]["parts"][0]["content"] == "words when on"
    assert not any(b"words when off" in body for body in collector.bodies)


async def test_a_job_that_is_handed_back_goes_on_in_its_tree(tmp_path: Path, collector: Collector) -> None:
    store = {"LOQUENT_STORE": f"sqlite:///{tmp_path}/loquent.db"}
    async with traced(tmp_path, **store) as services:
        assert services.tracer is not None
        span = services.tracer.begin("request", INTERNAL, None, {})
        token = current.set(span)
        begun = await services.generations.submit(ANN, wanted("[slow 0.2] [words 10] a long way to go"))
        current.reset(token)
        span.end()
        async with asyncio.timeout(30):
            while begun.generation.id not in services.runner.lives:
                await asyncio.sleep(0.01)
        await services.drain(0)
    async with traced(tmp_path, **store) as services:
        assert (await over(services, begun)).status == "completed"
    top = only(collector, "request")
    first, second = (span for span in collector.spans if span.name == "text_completion echo")
    assert {first.trace, second.trace} == {top.trace}
    assert {first.parent, second.parent} == {top.id}
    assert (first.attributes["loquent.stopped"], first.attributes["loquent.status"]) == ("released", "pending")
    assert (second.attributes["loquent.status"], second.error) == ("completed", None)


async def test_a_job_that_ends_without_a_run_is_told_with_its_reason(tmp_path: Path, collector: Collector) -> None:
    store = {"LOQUENT_STORE": f"sqlite:///{tmp_path}/loquent.db"}
    async with traced(tmp_path, works=False, **store) as services:
        begun = await services.generations.submit(ANN, wanted("hello"))
        [content] = await services.store.get(Content, begun.generation.id)
        await services.store.write(Remove(content))
    async with traced(tmp_path, **store) as services:
        async with asyncio.timeout(30):
            while not (await services.store.get(Generation, begun.generation.id))[0].is_over:
                await asyncio.sleep(0.02)
    told = only(collector, "chat echo")
    assert told.error == "its input has been removed"
    assert told.attributes["gen_ai.response.id"] == begun.generation.id
    assert only(collector, "store write").parent == told.id


async def test_a_run_that_is_cancelled_is_told_as_it_ended(tmp_path: Path, collector: Collector) -> None:
    async with traced(tmp_path) as services:
        begun = await services.generations.submit(ANN, wanted("[hang] on"))
        async with asyncio.timeout(30):
            while begun.generation.id not in services.runner.lives:
                await asyncio.sleep(0.01)
        await services.generations.cancel(ANN, begun.generation.id)
    told = only(collector, "text_completion echo").attributes
    assert (told["loquent.status"], told["loquent.stopped"]) == ("cancelled", "cancelled")
    assert only(collector, "try echo").attributes["loquent.outcome"] == "cut short"
    assert {span.error for span in collector.spans} == {None}


async def test_an_answer_that_was_kept_asks_no_engine(tmp_path: Path, collector: Collector) -> None:
    async with traced(tmp_path) as services:
        for _ in range(2):
            sure = wanted("the same", parameters=Parameters(temperature=0))
            await services.generations.collect(await services.generations.begin(ANN, sure))
    made = [span for span in collector.spans if span.name == "text_completion echo"]
    tried = only(collector, "try echo")
    assert [span.attributes["loquent.cache"] for span in sorted(made, key=lambda span: span.begin)] == ["miss", "hit"]
    assert tried.parent == min(made, key=lambda span: span.begin).id


async def test_what_the_sampler_leaves_out_is_not_told(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sampler in ("always_off", "always_on"):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        async with traced(tmp_path) as services:
            await services.generations.collect(await services.generations.begin(ANN, wanted(sampler)))
        assert bool(collector.spans) is (sampler == "always_on")


@pytest.mark.parametrize(
    ("wish", "named", "environ", "is_on"),
    [
        ("auto", False, {}, False),
        ("auto", True, {}, True),
        ("on", False, {}, True),
        ("off", True, {}, False),
        ("on", True, {"OTEL_SDK_DISABLED": "true"}, False),
        ("on", True, {"OTEL_TRACES_EXPORTER": "none"}, False),
        ("auto", True, {"OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
async def test_traces_are_on_where_a_setting_or_the_standard_says_so(
    wish: str, named: bool, environ: dict[str, str], is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert (tracers.connect(wish, "http://127.0.0.1:4318" if named else "") is not None) is is_on


async def test_without_the_library_only_an_express_wish_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "loquent.tracers.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)  # as if it was not installed
    with pytest.raises(Misconfigured, match=r"LOQUENT_TRACES is on; .*pip install \"loquent\[otel\]\""):
        tracers.connect("on", "")
    assert tracers.connect("auto", "http://127.0.0.1:4318") is None
    assert "loquent[otel]" in caplog.text


async def test_the_file_of_settings_holds_the_standards_variables_too(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "")  # so that what is set now is taken back
    monkeypatch.delenv("OTEL_SERVICE_NAME")
    monkeypatch.delenv(ENDPOINT)
    rows = '[[model]]\nname = "echo"\nengine = "echo"\nid = "echo"\n'
    (tmp_path / "rows.toml").write_text(rows)
    (tmp_path / ".env").write_text(f"{ENDPOINT}={collector.url}\nOTEL_SERVICE_NAME=from-the-file\n")
    environ = {"LOQUENT_STORE": "memory:", "LOQUENT_DATA_DIR": str(tmp_path), "LOQUENT_MODELS": f"{tmp_path}/rows.toml"}
    services = build(load_settings(environ, tmp_path))
    await services.open(works=False)
    await services.generations.collect(await services.generations.begin(ANN, wanted("hello")))
    await services.close()
    assert {span.service for span in collector.spans} == {"from-the-file"}


async def test_a_collector_that_is_away_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with caplog.at_level(logging.WARNING):
        async with traced(tmp_path) as services:
            for _ in range(3):
                failing = await services.generations.begin(ANN, wanted("[fail] now"))
                with pytest.raises(EngineFailed):
                    await services.generations.collect(failing)
                await asyncio.sleep(0.1)
    lines = [record for record in caplog.records if record.name.startswith(("loquent.traces", "opentelemetry"))]
    assert [record.getMessage() for record in lines] == ["the collector of traces does not take them; they are dropped"]


async def test_a_variable_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "-1")
    with pytest.raises(Misconfigured, match="OTEL_"):
        async with traced(tmp_path):
            pass
