"""What every engine behind somebody's HTTP API keeps to, whatever that server does: each fault has its own name, the
connection is free again, and what is asked for next is answered.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from loquent.domain.errors import EngineBusy, EngineFailed, EngineTimeout, Invalid, LoquentError, Unavailable
from loquent.domain.models import Model, Timeouts
from loquent.domain.requests import Parameters
from loquent.engines import Options, connect
from loquent.ports.engine import Ask, Chunk, Engine
from samples import certificate
from scripted import Caller, Script, Upstream, listening, silent

from .remotes import KEY, PRIVATE, WIRES, Wire

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

USUAL, SHORT = Timeouts(), Timeouts(0.15, 0.06, 0.06)


@dataclass(frozen=True)
class Way:
    """A wire, and whether its answer is streamed."""

    wire: Wire
    streamed: bool

    def response(self) -> list[bytes]:
        """The good answer as it goes over the connection: its head, its parts, its end."""
        kind = b"text/event-stream" if self.streamed else b"application/json"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
        parts = self.wire.events if self.streamed else (self.wire.whole,)
        return [head, *(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]

    def unfinished(self) -> bytes:
        """As much of it as may come without its being an answer."""
        parts = self.response()
        return b"".join(parts[:-2] if self.streamed else parts[:-1])  # the last event says that it is over

    async def well(self, caller: Caller) -> None:
        """A script: the good answer."""
        await caller.send(b"".join(self.response()))


WAYS = [Way(wire, streamed) for wire in WIRES for streamed in (False, True) if wire.events or not streamed]
WHOLE = [way for way in WAYS if not way.streamed]
STREAMED = [way for way in WAYS if way.streamed]
POINTS = ("nothing", "half a head", "the head", "a byte", "half", "nearly all")


def each(ways: Sequence[Way]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("way", ways, ids=lambda way: f"{way.wire.name}{', streamed' * way.streamed}")


every, whole, streamed = each(WAYS), each(WHOLE), each(STREAMED)


def until(way: Way, point: str) -> bytes:
    """The answer up to there."""
    most, head = way.unfinished(), len(way.response()[0])
    ends = (0, head // 2, head, head + 1, (head + len(most)) // 2, len(most))
    return most[: ends[POINTS.index(point)]]


@asynccontextmanager
async def serving(
    way: Way, script: Script, *, timeouts: Timeouts = USUAL, **how: Any
) -> AsyncIterator[tuple[Engine, Model, Upstream]]:
    async with listening(script, **how) as (url, upstream):
        model = Model("public", url=f"{url}/v1", key_env="KEY", timeouts=timeouts, **way.wire.row)
        engine = connect(model, Options(Path(), keys={"KEY": KEY}))
        await engine.open()
        try:
            yield engine, model, upstream
        finally:
            await engine.close()


async def heard(way: Way, engine: Engine, model: Model) -> list[Chunk]:
    return [chunk async for chunk in engine.stream(Ask(model, Parameters(), streamed=way.streamed, **way.wire.ask))]


def said(chunks: Sequence[Chunk]) -> Any:
    """What was answered, in the form that a wire's ``says`` has."""
    if vectors := [list(vector) for chunk in chunks for vector in chunk.vectors]:
        return vectors
    return "".join(
        itertools.chain.from_iterable((chunk.text, *(piece.arguments for piece in chunk.calls)) for chunk in chunks)
    )


async def fault(way: Way, engine: Engine, model: Model) -> LoquentError:
    with pytest.raises(LoquentError) as raised:
        await heard(way, engine, model)
    assert KEY not in str(raised.value)
    assert PRIVATE not in str(raised.value)
    assert "127.0.0.1" not in str(raised.value)
    return raised.value


@every
async def test_a_good_answer_is_heard_and_its_connection_serves_the_next(way: Way) -> None:
    async with serving(way, way.well) as (engine, model, upstream):
        for _ in range(3):
            chunks = await heard(way, engine, model)
            assert said(chunks) == way.wire.says
            assert [chunk.usage is not None for chunk in chunks].count(True) == 1
    assert (len(upstream.seen), upstream.connections) == (3, 1)
    assert KEY in upstream.seen[0].headers.get("authorization", "") + upstream.seen[0].headers.get("x-api-key", "")


# Silence, and hanging up, at every point.


@every
@pytest.mark.parametrize("point", POINTS)
async def test_silence_is_too_slow_at_every_point(way: Way, point: str) -> None:
    async def stuck(caller: Caller) -> None:
        await caller.send(until(way, point))
        await silent(caller)

    async with serving(way, stuck, timeouts=SHORT) as (engine, model, upstream):
        assert type(await fault(way, engine, model)) is EngineTimeout
        await asyncio.wait_for(upstream.all_gone.wait(), 5)
        upstream.script = way.well
        assert said(await heard(way, engine, replace(model, timeouts=USUAL))) == way.wire.says


@every
@pytest.mark.parametrize("point", POINTS)
async def test_a_server_that_hangs_up_is_away_at_every_point(way: Way, point: str) -> None:
    async def leaving(caller: Caller) -> None:
        await caller.send(until(way, point))
        await asyncio.sleep(0.01)
        caller.reset()

    async with serving(way, leaving) as (engine, model, upstream):
        assert type(await fault(way, engine, model)) is Unavailable
        assert upstream.connections == 1
        upstream.script = way.well
        assert said(await heard(way, engine, model)) == way.wire.says


@every
async def test_what_was_heard_of_a_server_is_forgotten_as_soon_as_a_call_fails(way: Way) -> None:
    async def leaving(caller: Caller) -> None:
        caller.reset()

    async with serving(way, way.well) as (engine, model, upstream):
        await heard(way, engine, model)
        await engine.ready()
        assert len(upstream.seen) == 1  # an answer of just now says enough
        upstream.script = leaving
        await fault(way, engine, model)
        with pytest.raises(Unavailable):
            await engine.ready()


@every
@pytest.mark.parametrize("point", POINTS)
async def test_a_cancelled_call_hangs_up_at_once_at_every_point(way: Way, point: str) -> None:
    async def stuck(caller: Caller) -> None:
        await caller.send(until(way, point))
        await silent(caller)

    async with serving(way, stuck) as (engine, model, upstream):
        call = asyncio.create_task(heard(way, engine, model))
        await asyncio.wait_for(upstream.asked.wait(), 5)
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(upstream.all_gone.wait(), 5)
        upstream.script = way.well
        assert said(await heard(way, engine, model)) == way.wire.says


@every
async def test_a_slow_drip_is_an_answer_as_any(way: Way) -> None:
    async def dripping(caller: Caller) -> None:
        response = b"".join(way.response())
        step = max(1, len(response) // 40)
        for at in range(0, len(response), step):
            await caller.send(response[at : at + step])
            await asyncio.sleep(0.001)

    async with serving(way, dripping) as (engine, model, _):
        assert said(await heard(way, engine, model)) == way.wire.says


# Answers that are none.


@whole
async def test_a_body_that_cannot_be_read_is_a_failure_and_costs_no_connection(way: Way) -> None:
    good = way.wire.whole
    bodies = (good[: len(good) // 2], good + good, b"", b"null", b"7", b"\xff\xfe", b"[" * 99_999, *way.wire.broken)
    async with serving(way, way.well) as (engine, model, upstream):
        for body in bodies:

            async def answer(caller: Caller, body: bytes = body) -> None:
                await caller.answer(body)

            upstream.script = answer
            assert type(await fault(way, engine, model)) is EngineFailed, body[:80]
        upstream.script = way.well
        assert said(await heard(way, engine, model)) == way.wire.says
    assert upstream.connections == 1


@streamed
async def test_an_event_that_cannot_be_read_is_a_failure_and_is_not_passed_on(way: Way) -> None:
    first, second = way.wire.events[:2]
    line = second[second.index(b"data: ") :]
    for bad in (
        line[: len(line) // 2] + b"\n\n",  # cut in the middle
        line.rstrip() + line[6:],  # two objects on a line
        b"data: hello\n\n",
        b"data: 1\n\n",
        b"data: \xff\xfe\n\n",
        b"data: " + b"[" * 99_999 + b"\n\n",
        b'data: {"error":{"type":"api_error","message":"x"},"type":"error"}\n\n',
    ):

        async def broken(caller: Caller, bad: bytes = bad) -> None:
            await caller.events(first, bad, *way.wire.events[1:])

        async with serving(way, broken) as (engine, model, upstream):
            heard_so_far = b""
            with pytest.raises((EngineFailed, Unavailable)):
                async for chunk in engine.stream(Ask(model, Parameters(), **way.wire.ask)):
                    heard_so_far += chunk.wire
            assert bad.strip() not in heard_so_far
            upstream.script = way.well
            assert said(await heard(way, engine, model)) == way.wire.says


@streamed
async def test_a_stream_that_ends_too_early_was_cut(way: Way) -> None:
    for count in (0, 1, 2):

        async def cut(caller: Caller, count: int = count) -> None:
            await caller.events(*way.wire.events[:count])

        async with serving(way, cut) as (engine, model, _):
            assert type(await fault(way, engine, model)) is EngineFailed


FORMS = {
    "crlf": lambda plain: plain.replace(b"\n", b"\r\n"),
    "cr": lambda plain: plain.replace(b"\n", b"\r"),
    "bom": lambda plain: b"\xef\xbb\xbf" + plain,
    "comments": lambda plain: b": hello\n\n" + plain.replace(b"data: ", b": still here\nid: 1\ndata:"),
    "gaps": lambda plain: plain.replace(b"\n\n", b"\n\n\n\n"),
}


@streamed
@pytest.mark.parametrize("form", FORMS)
async def test_events_may_be_written_in_any_form(way: Way, form: str) -> None:
    written = FORMS[form](b"".join(way.wire.events))

    async def split(caller: Caller) -> None:
        await caller.events(*(written[at : at + 7] for at in range(0, len(written), 7)))

    async with serving(way, split) as (engine, model, _):
        assert said(await heard(way, engine, model)) == way.wire.says


@every
async def test_an_answer_of_another_type_is_a_failure(way: Way) -> None:
    body = b"<html>hello</html>"

    async def page(caller: Caller) -> None:
        await caller.answer(body, kind="text/html")

    async with serving(way, page) as (engine, model, _):
        assert type(await fault(way, engine, model)) is EngineFailed


@cache
def bomb() -> bytes:
    return gzip.compress(b"0" * 100_000_000, 1)


@every
async def test_a_compressed_answer_is_refused_unopened(way: Way) -> None:
    kind = "text/event-stream" if way.streamed else "application/json"

    async def script(caller: Caller) -> None:
        await caller.answer(bomb(), kind=kind, extra="Content-Encoding: gzip\r\n")

    async with serving(way, script) as (engine, model, _):
        before = psutil.Process().memory_info().rss
        assert type(await fault(way, engine, model)) is EngineFailed
        assert psutil.Process().memory_info().rss - before < 50_000_000


@every
async def test_a_line_of_a_hundred_megabytes_is_cut_off_in_bounded_memory(way: Way) -> None:
    sent = 0

    async def script(caller: Caller) -> None:
        nonlocal sent
        await caller.begin("text/event-stream" if way.streamed else "application/json")
        for _ in range(100):
            await caller.chunk(b"x" * 1_000_000)
            sent += 1

    async with serving(way, script) as (engine, model, upstream):
        before = psutil.Process().memory_info().rss
        assert type(await fault(way, engine, model)) is EngineFailed
        assert psutil.Process().memory_info().rss - before < 150_000_000
        await asyncio.wait_for(upstream.all_gone.wait(), 5)
    assert sent < 50


# Refusals.


@every
@pytest.mark.parametrize(
    ("status", "extra", "meaning", "wait"),
    [
        (429, "Retry-After: 7\r\n", EngineBusy, 7.0),
        (429, "", EngineBusy, None),
        (500, "", Unavailable, None),
        (503, "Retry-After: 3\r\n", Unavailable, 3.0),
        (503, "", Unavailable, None),
        (401, "", EngineFailed, None),
        (404, "", Invalid, None),
        (418, "", EngineFailed, None),
    ],
)
async def test_a_refusal_has_its_meaning_and_says_how_long_to_wait(
    way: Way, status: int, extra: str, meaning: type[LoquentError], wait: float | None
) -> None:
    body = b'{"error":{"type":"x","message":"%s is no key"}}' % KEY.encode()
    async with serving(way, lambda caller: caller.answer(body, status, extra=extra)) as (engine, model, upstream):
        for _ in range(2):
            refused = await fault(way, engine, model)
            assert type(refused) is meaning
            assert refused.engine_status == status
            assert getattr(refused, "retry_after", None) == wait
    assert upstream.connections == 1


@every
@pytest.mark.parametrize("status", [301, 307])
async def test_a_redirect_is_refused_and_the_key_does_not_travel(way: Way, status: int) -> None:
    async with listening(way.well) as (url, elsewhere):
        where = f"Location: {url}/v1\r\n"
        async with serving(way, lambda caller: caller.answer(b"", status, extra=where)) as (engine, model, _):
            assert type(await fault(way, engine, model)) is EngineFailed
    assert elsewhere.seen == []


@whole
async def test_a_name_that_does_not_resolve_or_listen_is_away(way: Way) -> None:
    for url in ("http://no-such-host.invalid/v1", "http://127.0.0.1:1/v1", f"http://{'a' * 70}.example/v1"):
        model = Model("public", url=url, **way.wire.row)
        engine = connect(model, Options(Path()))
        await engine.open()
        assert type(await fault(way, engine, model)) is Unavailable
        await engine.close()


@whole
async def test_a_certificate_that_nobody_trusts_is_away(way: Way, tmp_path: Path) -> None:
    tls, _ = certificate.listener(tmp_path)
    async with serving(way, way.well, tls=tls) as (engine, model, upstream):
        assert type(await fault(way, engine, model)) is Unavailable
    assert upstream.seen == []


@every
async def test_the_pool_is_whole_after_fifty_failures(way: Way) -> None:
    async def partly(caller: Caller) -> None:
        await caller.send(until(way, "half"))

    async def stuck(caller: Caller) -> None:
        await partly(caller)
        await silent(caller)

    async def gone(caller: Caller) -> None:
        await partly(caller)
        caller.reset()

    async def nothing(caller: Caller) -> None:
        caller.reset()

    scripts: list[Script] = [
        stuck,
        gone,
        nothing,
        lambda caller: caller.answer(b"{}", 500),
        lambda caller: caller.answer(b"{}", 429),
        lambda caller: caller.answer(way.wire.whole[:10]),
        lambda caller: caller.answer(b"<html>", kind="text/html"),
        lambda caller: caller.answer(b"", 301, extra="Location: /\r\n"),
        lambda caller: caller.events(b"data: {\n\n"),
    ]
    async with serving(way, nothing, timeouts=SHORT) as (
        engine,
        model,
        upstream,
    ):
        for script in itertools.islice(itertools.cycle(scripts), 5):
            upstream.script = script
            faults = await asyncio.gather(*(heard(way, engine, model) for _ in range(10)), return_exceptions=True)
            assert all(isinstance(each, LoquentError) for each in faults)
        upstream.script = way.well
        patient = replace(model, timeouts=USUAL)
        answers = await asyncio.gather(*(heard(way, engine, patient) for _ in range(10)))
        assert all(said(chunks) == way.wire.says for chunks in answers)
        assert upstream.open <= 10
        await engine.close()
        await asyncio.wait_for(upstream.all_gone.wait(), 5)
