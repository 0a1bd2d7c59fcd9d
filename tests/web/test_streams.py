"""Streams: the form of their events, comments in silence, how they end, going on where one stopped, hanging up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asking import JSON, Answer, ask, serving
from loquent.services import generations
from loquent.web import sse
from loquent.web.edge import Edge
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

PATH = "/api/v1/generations"
CHAT = "/v1/chat/completions"
Ours = tuple[Edge, Services]
Event = dict[str, Any]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as found:
        yield found


async def post(app: Edge, path: str, **body: Any) -> Answer:
    more = {name: body.pop(name) for name in ("seen", "leaves") if name in body}
    return await ask(app, "POST", path, headers=[JSON], body=json.dumps(body).encode(), **more)


def stream_of(app: Edge, prompt: str, *, path: str = PATH, **more: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return post(app, path, stream=True, **({"model": "echo"} if path == CHAT else {}), messages=messages, **more)


def told(answer: Answer) -> list[Event]:
    """The same without comments."""
    return [event for event in events(answer) if "comment" not in event]


def events(answer: Answer) -> list[Event]:
    """The events of a stream as a browser reads them; a comment is one without a name."""
    found = []
    assert answer.body.endswith(b"\n\n")
    for block in answer.body.decode().split("\n\n")[:-1]:
        lines = [line.partition(": ") for line in block.split("\n")]
        event: Event = {"comment" if name in ("", ":") else name: value for name, _, value in lines}
        if "data" in event and event["data"] != "[DONE]":
            event["data"] = json.loads(event["data"])
        found.append(event)
    return found


async def job(app: Edge, prompt: str) -> str:
    return str((await post(app, PATH, prompt=prompt, background=True)).json()["id"])


async def until_lives(services: Services, number: int = 1) -> None:
    async with asyncio.timeout(10):
        while len(services.runner.lives) != number:
            await asyncio.sleep(0.005)


async def test_events_have_ids_and_end_with_the_generation(at: Ours) -> None:
    app, _ = at
    answer = await stream_of(app, "one two three")
    assert (answer.status, answer.header("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert (answer.header("x-accel-buffering"), answer.header("cache-control")) == ("no", "no-cache, no-transform")
    assert answer.header("x-ratelimit-limit-requests")
    assert answer.is_whole
    *deltas, done = events(answer)
    assert [(each["event"], each["id"], each["data"]) for each in deltas] == [
        ("delta", "3", {"text": "one"}),
        ("delta", "7", {"text": " two"}),
        ("delta", "13", {"text": " three"}),
    ]
    assert (done["event"], done["id"]) == ("done", "13")
    stored = await ask(app, "GET", f"{PATH}/{done['data']['id']}")
    assert done["data"] == stored.json(), "what the last event says stands on the record already"
    assert done["data"]["status"] == "completed"


async def test_lines_and_scripts_of_all_kinds_come_through(at: Ours) -> None:
    app, _ = at
    text = "one\ntwo\r\n\r\ndata: three\n\nевро\u2028 日本 \U0001f600 \x85"
    answer = await stream_of(app, text)
    assert "".join(each["data"]["text"] for each in events(answer) if each["event"] == "delta") == text.strip()


@pytest.mark.parametrize("path", [PATH, CHAT])
@pytest.mark.parametrize(
    ("prompt", "status"), [("[fail] x", 502), ("[away] x", 503), ("[busy 2] x", 503), ("word " * 2_000, 422)]
)
async def test_a_fault_before_the_first_piece_is_a_status(at: Ours, path: str, prompt: str, status: int) -> None:
    app, _ = at
    answer = await stream_of(app, prompt, path=path)
    assert answer.status == (400 if path == CHAT and status == 422 else status)
    assert answer.header("content-type") == ("application/json" if path == CHAT else "application/problem+json")
    assert answer.is_whole
    assert answer.json()["error" if path == CHAT else "detail"]


async def test_a_fault_behind_it_is_the_last_event(at: Ours) -> None:
    app, _ = at
    answer = await stream_of(app, "[cut 2] one two three")
    *deltas, last = events(answer)
    assert (answer.status, answer.is_whole, "".join(each["data"]["text"] for each in deltas)) == (200, True, "one two")
    assert (last["event"], last["data"]["status"], last["data"]["code"]) == ("error", 502, "engine_failed")
    assert last["data"]["request_id"] == answer.header("x-request-id")
    answer = await stream_of(app, "[cut 2] one two three", path=CHAT)
    *chunks, last = events(answer)
    assert (answer.status, answer.is_whole, len(chunks)) == (200, True, 2)
    assert last["data"]["error"]["code"] == "engine_failed"


@pytest.mark.parametrize("path", [PATH, CHAT])
async def test_in_silence_a_comment_is_sent(at: Ours, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    app, services = at
    monkeypatch.setattr(sse, "QUIET", 0.02)
    comments = 0

    def seen(piece: bytes) -> bool:
        nonlocal comments
        comments += piece == b": still here\n\n"
        return comments == 3

    async with asyncio.timeout(10):
        answer = await stream_of(app, "[hang] x", path=path, seen=seen)
    assert (answer.status, answer.body, answer.is_whole) == (200, b": still here\n\n" * comments, False)
    await until_lives(services, 0)


async def test_a_fault_after_a_comment_is_an_event_too(at: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    app, services = at
    monkeypatch.setattr(sse, "QUIET", 0.02)
    quiet = asyncio.Event()

    def seen(piece: bytes) -> bool:
        if piece.startswith(b": "):
            quiet.set()
        return False

    running = asyncio.create_task(stream_of(app, "[hang] x", seen=seen))
    async with asyncio.timeout(10):
        await quiet.wait()
    await services.runner.close()
    *comments, last = events(await running)
    assert comments
    assert all("comment" in each for each in comments)
    assert (last["event"], last["data"]["status"]) == ("error", 503)


@pytest.mark.parametrize("path", [PATH, CHAT])
async def test_hanging_up_frees_the_engine_and_keeps_what_there_is(at: Ours, path: str) -> None:
    app, services = at
    answer = await stream_of(app, "[slow 0.005] [words 5000] word", path=path, seen=lambda piece: b"word" in piece)
    assert not answer.is_whole
    await until_lives(services, 0)
    [listed] = (await ask(app, "GET", PATH)).json()["data"]
    assert (listed["status"], listed["finish_reason"]) == ("cancelled", "cancelled")
    assert listed["output_preview"].startswith("word")
    assert listed["usage"]["completion_tokens"] > 0


async def test_many_who_hang_up_leave_nothing_running(at: Ours) -> None:
    app, services = at
    await asyncio.gather(*(stream_of(app, "[hang] x", leaves=True) for _ in range(200)))
    await until_lives(services, 0)
    assert (await stream_of(app, "still fine")).is_whole


# Following


async def test_a_follower_sees_all_of_a_job(at: Ours) -> None:
    app, _ = at
    id = await job(app, "[slow 0.002] [words 30] word")
    answer = await ask(app, "GET", f"{PATH}/{id}/events")
    *before, done = told(answer)
    texts = "".join(each["data"]["text"] for each in before if each["event"] == "delta")
    assert (done["event"], done["data"]["output"], len(texts.split())) == ("done", texts, 30)
    assert int(done["id"]) == len(texts)
    assert answer.is_whole


async def test_a_follower_goes_on_where_it_stopped(at: Ours) -> None:
    app, _ = at
    id = await job(app, "[slow 0.005] [words 60] word")
    path, got, last = f"{PATH}/{id}/events", "", "0"
    for _ in range(40):
        answer = await ask(app, "GET", path, headers=[("last-event-id", last)], seen=lambda piece: b"delta" in piece)
        for event in told(answer):
            last = event["id"]
            if event["event"] == "delta":
                got += event["data"]["text"]
        if answer.is_whole:
            break
    answer = await ask(app, "GET", path, headers=[("last-event-id", last)])
    for event in told(answer)[:-1]:
        got += event["data"]["text"]
    assert got == told(answer)[-1]["data"]["output"]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ("0", [("delta", {"text": "one two"}, "7")]),
        ("4", [("delta", {"text": "two"}, "7")]),
        ("7", []),
        ("400", [("restart", {}, "0"), ("delta", {"text": "one two"}, "7")]),
        ("4-1", [("delta", {"text": "two"}, "7")]),
        ("4-2", [("restart", {}, "0"), ("delta", {"text": "one two"}, "7")]),  # of an attempt that is not the one kept
    ],
)
async def test_one_that_is_over_is_told_from_its_record(at: Ours, seen: str, expected: list[tuple[Any, ...]]) -> None:
    app, _ = at
    id = (await post(app, PATH, prompt="one two")).json()["id"]
    answer = await ask(app, "GET", f"{PATH}/{id}/events/", headers=[("last-event-id", seen)])
    *before, done = told(answer)
    assert [(each["event"], each["data"], each["id"]) for each in before] == expected
    assert (done["event"], done["data"]["id"]) == ("done", id)


@pytest.mark.parametrize("given", ["-1", "1-x", "abc", "1.5", "", "1" * 13, "٣".encode().decode("latin-1"), "0x1"])
async def test_a_last_event_id_that_is_none_is_refused(at: Ours, given: str) -> None:
    app, _ = at
    id = (await post(app, PATH, prompt="one two")).json()["id"]
    answer = await ask(app, "GET", f"{PATH}/{id}/events", headers=[("last-event-id", given)])
    assert (answer.status, answer.json()["field"]) == (422, "Last-Event-ID")


async def test_progress_of_a_summary_is_told(at: Ours) -> None:
    app, _ = at
    text = " ".join(f"This is sentence number {n} of a long text." for n in range(600))
    made = await ask(
        app, "POST", "/api/v1/summaries", headers=[JSON], body=json.dumps({"text": text, "model": "echo"}).encode()
    )
    answer = await ask(app, "GET", f"{PATH}/{made.json()['generation_id']}/events")
    before = told(answer)
    progress = [each["data"] for each in before if each["event"] == "progress"]
    assert progress
    assert progress == sorted(progress, key=lambda each: each["done"])
    assert all(each["done"] <= each["of"] for each in progress)
    assert before[-1]["data"]["status"] == "completed"


async def test_a_quiet_job_is_told_to_be_alive(at: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    app, services = at
    monkeypatch.setattr(generations, "QUIET_SECONDS", 0.02)
    id = await job(app, "[hang] x")
    await until_lives(services)
    async with asyncio.timeout(10):
        answer = await ask(app, "GET", f"{PATH}/{id}/events", seen=lambda piece: piece.startswith(b": "))
    assert answer.body.startswith(b": still here\n\n")
    assert id in services.runner.lives, "who follows may go; a job goes on"


async def test_a_follower_of_one_that_is_cancelled_sees_its_end(at: Ours) -> None:
    app, services = at
    id = await job(app, "[slow 0.01] [words 5000] word")
    await until_lives(services)
    following = asyncio.create_task(ask(app, "GET", f"{PATH}/{id}/events"))
    await asyncio.sleep(0.05)
    await ask(app, "POST", f"{PATH}/{id}/cancel")
    async with asyncio.timeout(10):
        last = told(await following)[-1]
    assert (last["event"], last["data"]["status"]) == ("done", "cancelled")


async def test_a_stop_ends_a_stream_with_an_event(at: Ours) -> None:
    app, services = at
    running = asyncio.create_task(stream_of(app, "[slow 0.005] [words 5000] word"))
    await until_lives(services)
    async with asyncio.timeout(10):
        while not any(each.text for each in services.runner.lives.values()):
            await asyncio.sleep(0.01)
    await services.drain(0)
    await services.runner.close()
    last = told(await running)[-1]
    assert (last["event"], last["data"]["status"]) == ("error", 503)
