"""Every bad engine, through the whole of a generation: a clear error or the fallback's answer, and nothing is held."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from built import ANN, opened, wanted
from loquent.domain.errors import LoquentError
from loquent.domain.generations import Content, Generation
from loquent.services.breaker import Breaker
from loquent.services.models import Offer
from loquent.wiring import Services
from samples.certificate import CERTIFICATE
from scripted import Caller, Script, hang_up, hang_up_after_the_head, listening, silent, silent_after_the_head

pytestmark = pytest.mark.anyio

SAID = "what was asked"
ROW = """
[[model]]
name = "{name}"
engine = "openai"
id = "{name}"
url = "{url}/v1"
timeouts = {{total = {total}, first = {silence}, idle = {silence}, connect = 2}}
concurrency = {slots}
retries = 0
fallback = {fallback}
"""
ECHO = '[[model]]\nname = "echo"\nengine = "echo"\nid = "echo"\n'


def event(text: str | None = "hi", finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"model": "x", "choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
GOOD = event("well ") + event("said") + event(None, "stop") + DONE
WHOLE = json.dumps({"choices": [{"message": {"content": "well said"}, "finish_reason": "stop"}]}).encode()
BOMB = gzip.compress(b"0" * 10_000_000, 1)


def both(stream: bytes, whole: bytes) -> Script:
    """Says the one where a stream is asked for, in one chunk, and the other where not."""

    async def script(caller: Caller) -> None:
        await (caller.events(stream) if caller.body.get("stream") else caller.answer(whole))

    return script


def begun(then: Script, first: bytes = event("begun")) -> Script:
    """Begins to answer, and then does that."""

    async def script(caller: Caller) -> None:
        await caller.begin("text/event-stream" if caller.body.get("stream") else "application/json")
        await caller.chunk(first)
        await asyncio.sleep(0.02)
        await then(caller)

    return script


def refusing(status: int, extra: str = "") -> Script:
    """Answers with that status."""
    return lambda caller: caller.answer(b'{"error":{"message":"no"}}', status, extra=extra)


async def dripping(caller: Caller) -> None:
    await caller.begin("text/event-stream" if caller.body.get("stream") else "application/json")
    while True:
        await caller.chunk(b": still here\n\n")
        await asyncio.sleep(0.01)


async def bomb(caller: Caller) -> None:
    kind = "text/event-stream" if caller.body.get("stream") else "application/json"
    await caller.answer(BOMB, kind=kind, extra="Content-Encoding: gzip\r\n")


@dataclass(frozen=True)
class Bad:
    """What an engine does, and what comes of it. ``text``: of a stream that had begun, after which nobody else may."""

    script: Script
    code: str
    text: str = ""


ERROR = b'data: {"error":{"message":"out of memory"}}\n\n'
FAULTS = {
    "429 without Retry-After": Bad(refusing(429), "engine_busy"),
    "429 with Retry-After": Bad(refusing(429, "Retry-After: 30\r\n"), "engine_busy"),
    "500": Bad(refusing(500), "unavailable"),
    "503": Bad(refusing(503), "unavailable"),
    "reset at once": Bad(hang_up, "unavailable"),
    "reset after the head": Bad(hang_up_after_the_head, "unavailable"),
    "reset after the first token": Bad(begun(hang_up), "unavailable", "begun"),
    "silence": Bad(silent, "engine_timeout"),
    "silence after the head": Bad(silent_after_the_head, "engine_timeout"),
    "silence after the first token": Bad(begun(silent), "engine_timeout", "begun"),
    "slow drip": Bad(dripping, "engine_timeout"),
    "gzip bomb": Bad(bomb, "engine_failed"),
    "wrong content type": Bad(lambda caller: caller.answer(b"<html>", kind="text/html"), "engine_failed"),
    "JSON cut in the middle": Bad(both(event()[:30] + b"\n\n", WHOLE[:30]), "engine_failed"),
    "cut after the first token": Bad(begun(lambda caller: caller.send(b"0\r\n\r\n")), "engine_failed", "begun"),
    "two objects on a line": Bad(both(b"data: {}{}\n\n", WHOLE + WHOLE), "engine_failed"),
    "an error in a 200": Bad(both(ERROR, b'{"error":{"message":"out of memory"}}'), "engine_failed"),
    "an error after the first token": Bad(
        begun(lambda caller: caller.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(ERROR), ERROR))), "engine_failed", "begun"
    ),
}
FINE = {
    "CRLF": both(GOOD.replace(b"\n", b"\r\n"), WHOLE),
    "BOM": both(b"\xef\xbb\xbf" + GOOD, b"\n" + WHOLE),
    "comments": both(b": hello\n\n" + GOOD.replace(b"data: ", b": more\nid: 1\ndata:"), WHOLE),
    "no [DONE]": both(GOOD.removesuffix(DONE), WHOLE),
    "choices: []": both(b'data: {"choices":[]}\n\n' + GOOD, WHOLE),
}


@asynccontextmanager
async def asking(
    folder: Path, url: str, *, total: float = 0.5, silence: float = 0.1, slots: int = 1
) -> AsyncIterator[Services]:
    """Services with that engine alone, and with it before echo."""
    rows = folder / "rows.toml"
    pairs = (("alone", "[]"), ("helped", '["echo"]'))
    rows.write_text(
        ECHO
        + "".join(
            ROW.format(name=name, url=url, fallback=after, total=total, silence=silence, slots=slots)
            for name, after in pairs
        )
    )
    async with opened(folder, works=False, LOQUENT_MODELS=str(rows)) as services:
        yield services


async def run(services: Services, model: str, *, streamed: bool) -> tuple[Generation, Content, LoquentError | None]:
    """One generation to its end, as the record has it then; and what its caller was told."""
    asked = await services.generations.begin(ANN, wanted(SAID, model=model, streamed=streamed))
    told = None
    try:
        await services.generations.collect(asked)
    except LoquentError as fault:
        told = fault
    return (*await services.generations.get(ANN, asked.generation.id), told)


def is_free(services: Services) -> bool:
    """Whether nothing runs, and no row holds a slot or a place in its line."""
    gates = [way.gate for way in services.models.ways() if way.gate is not None]
    return not services.runner.lives and all(not gate.inside and not gate.waiting for gate in gates)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("name", FAULTS)
async def test_a_bad_engine_is_a_clear_error_alone_and_its_fallbacks_answer_before(
    tmp_path: Path, name: str, streamed: bool
) -> None:
    bad = FAULTS[name]
    has_begun = streamed and bool(bad.text)
    async with listening(bad.script) as (url, upstream), asking(tmp_path, url) as services:
        made, content, told = await run(services, "alone", streamed=streamed)
        assert told is not None
        assert (told.code, made.status, made.error_code) == (bad.code, "failed", bad.code)
        assert (made.answered_by, content.output) == ("alone", bad.text if has_begun else "")
        assert "secret" not in told.message and url not in told.message
        made, content, told = await run(services, "helped", streamed=streamed)
        [first, *others] = (made.details or {})["tries"]
        assert (first["model"], first["error"]) == ("helped", bad.code)
        if has_begun:
            assert (made.status, content.output, others) == ("failed", bad.text, [])
        else:
            assert (made.status, content.output, told) == ("completed", SAID, None)
            assert (made.answered_by, [each["model"] for each in others]) == ("echo", ["echo"])
        assert is_free(services)
        assert len(upstream.seen) == 2


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("name", FINE)
async def test_an_odd_engine_that_answers_is_answered_by(tmp_path: Path, name: str, streamed: bool) -> None:
    async with listening(FINE[name]) as (url, _), asking(tmp_path, url, total=20, silence=10) as services:
        made, content, told = await run(services, "helped", streamed=streamed)
        assert (content.output, made.answered_by, made.details, told) == ("well said", "helped", None, None)
        assert is_free(services)


async def test_the_wait_that_an_engine_asks_for_is_told_the_caller(tmp_path: Path) -> None:
    async with listening(refusing(429, "Retry-After: 30\r\n")) as (url, _), asking(tmp_path, url) as services:
        _, _, told = await run(services, "alone", streamed=True)
    assert getattr(told, "retry_after", None) == 30


async def test_a_redirect_is_not_followed_and_the_other_host_hears_nothing(tmp_path: Path) -> None:
    async with listening(both(GOOD, WHOLE)) as (other, elsewhere):
        where = f"Location: {other}/v1/chat/completions\r\n"
        async with listening(refusing(301, where)) as (url, _), asking(tmp_path, url) as services:
            _, _, told = await run(services, "alone", streamed=True)
            made, content, _ = await run(services, "helped", streamed=True)
            assert is_free(services)
    assert told is not None and told.code == "engine_failed" and "301" in told.message
    assert (content.output, made.answered_by, elsewhere.seen) == (SAID, "echo", [])


async def test_a_certificate_for_another_name_and_a_name_that_nobody_knows_are_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "both.pem").write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "both.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "both.pem")
    async with listening(both(GOOD, WHOLE), tls=tls) as (url, upstream):
        for place in (url.replace("127.0.0.1", "localhost"), "http://no-such-host.invalid"):
            async with asking(tmp_path, place, total=20, silence=10) as services:
                _, _, told = await run(services, "alone", streamed=True)
                made, content, _ = await run(services, "helped", streamed=False)
                assert told is not None and told.code == "unavailable"
                assert (content.output, made.answered_by) == (SAID, "echo")
                assert is_free(services)
        assert upstream.seen == []
        async with asking(tmp_path, url, total=20, silence=10) as services:  # the control: the name that it is for
            assert (await run(services, "alone", streamed=True))[1].output == "well said"


class Patient(Breaker):
    """A breaker that never opens, so that each failure reaches the engine."""

    def leave(self, is_well: bool | None, *, is_trial: bool = False) -> None:
        """Whatever it was, it is forgotten."""


@pytest.mark.parametrize("name", FAULTS.keys() - {"slow drip"})
async def test_after_fifty_failures_all_ten_slots_and_connections_are_there(tmp_path: Path, name: str) -> None:
    failed = 0

    async def script(caller: Caller) -> None:
        nonlocal failed
        failed += 1
        await (FAULTS[name].script if failed <= 50 else meeting)(caller)

    async def meeting(caller: Caller) -> None:
        met.append(caller)
        if len(met) == 10:
            all_here.set()
        await all_here.wait()  # nobody is answered before ten are there at the same time
        await both(GOOD, WHOLE)(caller)

    met: list[Caller] = []
    all_here = asyncio.Event()
    async with listening(script) as (url, upstream):
        async with asking(tmp_path, url, total=20, silence=0.4, slots=10) as services:
            offer: Offer = services.models.offers["alone"]
            offer.breaker = Patient()
            done = await asyncio.gather(*(run(services, "alone", streamed=True) for _ in range(50)))
            assert {told.code for _, _, told in done if told is not None} == {FAULTS[name].code}
            assert (failed, is_free(services)) == (50, True)
            done = await asyncio.gather(*(run(services, "alone", streamed=True) for _ in range(10)))
            assert [content.output for _, content, _ in done] == ["well said"] * 10
            assert is_free(services)
            assert upstream.open <= 10
        await asyncio.wait_for(upstream.all_gone.wait(), 5)
