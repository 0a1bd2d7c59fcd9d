"""What every replica knows, and how soon: streams through nginx, following and resuming elsewhere, administration.

``python -m journeys.replicas`` (from ``tests/``) is silent for a minute and counts gaps for a minute;
test_replicas.py has the short form.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from journeys.cluster import Cluster, Part, cluster
from journeys.processes import end_of, start
from postgres_server import PostgresServer, postgres_server

OURS, THEIRS, MODELS = "/api/v1/generations", "/v1/chat/completions", "/api/v1/models"
PASSWORD = "correct horse"
ENDLESS = "[slow 0.02] [words 50000] and so on"
PARROT = {"name": "parrot", "engine": "echo", "id": "echo"}
PATIENCE = 20.0  # seconds after which something does not happen


@dataclass(frozen=True, slots=True)
class Seen:
    """One event, or a comment, and when it arrived."""

    at: float
    kind: str
    id: int = 0
    data: Any = None

    @property
    def text(self) -> str:
        """What it adds to the answer."""
        return self.data["text"] if self.kind == "delta" else ""


@dataclass
class Lags:
    """Seconds that things took, by what they are."""

    found: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, *seconds: float) -> None:
        """One more of that."""
        self.found.setdefault(what, []).extend(seconds)

    def worst(self, what: str) -> float:
        """The longest of them."""
        return max(self.found[what])

    def __str__(self) -> str:
        return "\n".join(
            f"{what}: median {statistics.median(each) * 1000:.0f} ms, p99 {p99(each) * 1000:.0f} ms, "
            f"worst {max(each) * 1000:.0f} ms of {len(each)}"
            for what, each in self.found.items()
        )


def p99(values: list[float]) -> float:
    """What all but a hundredth stay below."""
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


@asynccontextmanager
async def client_of(address: str, token: str | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody who asks there."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    timeout = httpx2.Timeout(10, read=120)
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=timeout, verify=False) as client:
        yield client


async def events(
    client: httpx2.AsyncClient, method: str, path: str, *, last: int = 0, **body: Any
) -> AsyncIterator[Seen]:
    """What a stream says, each with the time of its arrival. ``last``: the event behind which it is to go on."""
    headers = {"last-event-id": str(last)} if last else {}
    sent = {"json": body} if body else {}
    async with client.stream(method, path, headers=headers, **sent) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        assert answer.headers["content-type"].startswith("text/event-stream")
        pending = b""
        async for piece in answer.aiter_raw():
            at = time.monotonic()
            *blocks, pending = (pending + piece).split(b"\n\n")
            for block in blocks:
                yield _seen(at, block.decode())
        assert not pending, "a stream ends behind an event"


def _seen(at: float, block: str) -> Seen:
    lines = {name: value for name, _, value in (line.partition(": ") for line in block.split("\n"))}
    if "data" not in lines:
        return Seen(at, "comment")
    data = None if lines["data"] == "[DONE]" else json.loads(lines["data"])
    kind = lines.get("event") or ("done" if data is None else "error" if "error" in data else "chunk")
    return Seen(at, kind, int(lines.get("id", 0)), data)


async def logged_in(address: str, name: str) -> str:
    """A token of somebody who registers first."""
    async with client_of(address) as client:
        made = await client.post("/api/v1/users", json={"username": name, "password": PASSWORD})
        assert made.status_code in (201, 409), made.text
        given = await client.post("/api/v1/token", data={"username": name, "password": PASSWORD})
        assert given.status_code == 200, given.text
        return str(given.json()["access_token"])


# Streams through nginx


async def gaps(address: str, token: str, chunks: int) -> list[float]:
    """Seconds between the chunks of a stream of 50 a second."""
    prompt = f"[slow 0.02] [words {chunks}] and so on"
    async with client_of(address, token) as client:
        at = [each.at async for each in events(client, "POST", OURS, prompt=prompt, stream=True) if each.text]
    assert len(at) == chunks
    return [after - before for before, after in pairwise(at)]


async def compare_gaps(found: Cluster, token: str, lags: Lags, *, seconds: float, streams: int = 3) -> None:
    """So many streams through nginx and so many past it, side by side: chunks come as evenly on both ways."""
    chunks = int(seconds * 50)
    ways = {"gaps through nginx": found.address, "gaps past nginx": found.apis[0].address}
    asked = [(what, address) for what, address in ways.items() for _ in range(streams)]
    for (what, _), each in zip(asked, await asyncio.gather(*(gaps(at, token, chunks) for _, at in asked)), strict=True):
        lags.add(what, *each)


async def be_silent(found: Cluster, token: str, seconds: float) -> tuple[int, int]:
    """A stream and a follower of a job, both through nginx, of an engine that is silent for so long: comments seen."""
    prompt = f"[slow {seconds}] silence"
    async with client_of(found.address, token) as client:
        job = (await client.post(OURS, json={"prompt": prompt, "background": True})).json()["id"]

        async def comments(*asked: str, **body: Any) -> int:
            began = time.monotonic()
            seen = [each async for each in events(client, *asked, **body)]
            assert time.monotonic() - began >= seconds - 1
            assert "".join(each.text for each in seen) == "silence"
            assert seen[-1].kind == "done" and seen[-1].data["status"] == "completed"
            return sum(each.kind == "comment" for each in seen)

        streamed, followed = await asyncio.gather(
            comments("POST", OURS, prompt=prompt, stream=True), comments("GET", f"{OURS}/{job}/events")
        )
        return streamed, followed


# On another replica


async def job_of(found: Cluster, token: str, prompt: str) -> tuple[str, Part, Part]:
    """A job that runs: its id, the replica that has it and another one."""
    async with client_of(found.address, token) as client:
        id = str((await client.post(OURS, json={"prompt": prompt, "background": True})).json()["id"])
    async with asyncio.timeout(PATIENCE), await psycopg.AsyncConnection.connect(found.database) as opened:
        while True:
            [(by,)] = await (await opened.execute("SELECT lease_by FROM generations WHERE id = %s", (id,))).fetchall()
            await opened.commit()
            if by:
                break
            await asyncio.sleep(0.01)
    pid = int(by.rpartition(":")[2])
    here, *elsewhere = sorted(found.apis, key=lambda part: part.process is None or part.process.pid != pid)
    assert here.process is not None and here.process.pid == pid, "a server does the jobs here"
    return id, here, elsewhere[0]


async def follow_elsewhere(found: Cluster, token: str, lags: Lags, *, words: int) -> None:
    """A job followed where it runs and elsewhere: the same text, and how much later."""
    id, here, elsewhere = await job_of(found, token, f"[slow 0.02] [words {words}] and so on")
    path = f"{OURS}/{id}/events"

    async def follow(part: Part) -> list[Seen]:
        async with client_of(part.address, token) as client:
            return [each async for each in events(client, "GET", path)]

    near, far = await asyncio.gather(follow(here), follow(elsewhere))
    for seen in (near, far):
        assert seen[-1].kind == "done" and seen[-1].data["status"] == "completed"
        assert "".join(each.text for each in seen) == seen[-1].data["output"] == _words(words)
    known = [each for each in far if each.text]
    assert len(known) > 3, "it is seen while it runs"
    for each in near[1:]:
        if each.text:
            lags.add("following elsewhere", max(0.0, next(one.at for one in known if one.id >= each.id) - each.at))


async def resume_elsewhere(found: Cluster, token: str, *, words: int) -> int:
    """A job whose follower is cut off again and again, and goes on at the other replica; how many times."""
    id, *parts = await job_of(found, token, f"[slow 0.02] [words {words}] and so on")
    text, last, turns = "", 0, 0
    while True:
        async with (
            client_of(parts[turns % 2].address, token) as client,
            aclosing(events(client, "GET", f"{OURS}/{id}/events", last=last)) as seen,  # type: ignore[type-var]
        ):
            async for each in seen:
                text, last = text + each.text, max(last, each.id)
                assert each.kind != "restart" and last == len(text), "none twice, none missing"
                if each.kind == "done":
                    assert text == each.data["output"] == _words(words)
                    return turns
                if each.text and len(text) > (turns + 1) * 2 * words // 3:
                    break
        turns += 1


def _words(count: int) -> str:
    return " ".join(("and so on " * count).split()[:count])


async def cancel_elsewhere(found: Cluster, token: str, lags: Lags) -> None:
    """A job that another replica is told to cancel: its engine says no more soon after."""
    id, here, elsewhere = await job_of(found, token, ENDLESS)
    async with client_of(here.address, token) as near, client_of(elsewhere.address, token) as far:

        async def end() -> Seen:
            seen = [each async for each in events(near, "GET", f"{OURS}/{id}/events")]
            assert seen[-1].data["status"] == "cancelled" and seen[-1].data["output"]
            return seen[-1]

        ending = asyncio.create_task(end())
        await asyncio.sleep(0.3)
        began = time.monotonic()
        assert (await far.post(f"{OURS}/{id}/cancel")).status_code == 200
        async with asyncio.timeout(PATIENCE):
            lags.add("a cancel from elsewhere", (await ending).at - began)


# Administration


async def change_models(found: Cluster, lags: Lags) -> None:
    """A model that one replica adds, changes and removes: how soon the other one offers it so."""
    token = await logged_in(found.address, "root")
    with psycopg.connect(found.database) as opened:
        opened.execute("UPDATE users SET role = 'admin' WHERE username = 'root'")
    token = await logged_in(found.address, "root")
    one, other = found.apis
    async with client_of(one.address, token) as here, client_of(other.address, token) as there:

        async def until(status: int, context: int | None = None) -> None:
            async with asyncio.timeout(PATIENCE):
                while True:
                    answer = await there.get(f"{MODELS}/parrot")
                    if answer.status_code == status and (context is None or answer.json()["context"] == context):
                        lags.add("a model changed elsewhere", time.monotonic() - began)
                        return
                    await asyncio.sleep(0.01)

        assert (await here.post(MODELS, json=PARROT)).status_code == 201
        began = time.monotonic()
        await until(200)
        asked = await there.post(OURS, json={"prompt": "one two", "model": "parrot"})
        assert asked.json()["output"] == "one two"
        assert (await here.put(f"{MODELS}/parrot", json={**PARROT, "context": 7})).status_code == 200
        began = time.monotonic()
        await until(200, 7)
        assert (await here.delete(f"{MODELS}/parrot")).status_code == 204
        began = time.monotonic()
        await until(404)


async def administer(found: Cluster, token: str, lags: Lags, rounds: int) -> None:
    """Cancel and change what is elsewhere, again and again."""
    for _ in range(rounds):
        await cancel_elsewhere(found, token, lags)
        await change_models(found, lags)


async def revoke(found: Cluster, lags: Lags, how: str) -> None:
    """Somebody's tokens end by a command: so do their streams, everywhere, each with an error; others' go on."""
    name = f"ann-{how}"
    token, other = await logged_in(found.address, name), await logged_in(found.address, f"bob-{how}")
    id, here, elsewhere = await job_of(found, token, ENDLESS)
    messages = [{"role": "user", "content": ENDLESS}]
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        *(("POST", part.address, OURS, {"prompt": ENDLESS, "stream": True}) for part in (here, elsewhere)),
        *(("GET", part.address, f"{OURS}/{id}/events", {}) for part in (here, elsewhere)),
        ("POST", found.address, THEIRS, {"model": "echo", "messages": messages, "stream": True}),
    ]

    heard: dict[asyncio.Task[Any] | None, Seen] = {}  # the last of each stream that has begun

    async def last(method: str, address: str, path: str, body: dict[str, Any], by: str = token) -> Seen:
        task = asyncio.current_task()
        async with client_of(address, by) as client:
            async for each in events(client, method, path, **body):
                heard[task] = each
        return heard[task]

    theirs = [asyncio.create_task(last(*each)) for each in asked]
    going = asyncio.create_task(last("POST", elsewhere.address, OURS, {"prompt": ENDLESS, "stream": True}, other))
    async with asyncio.timeout(PATIENCE):
        while len(heard) <= len(theirs):
            await asyncio.sleep(0.02)
    assert not any(each.done() for each in (*theirs, going)), "what runs, runs"
    at = await _commanded(found, how, name)  # to the microsecond, as the record says: the command takes far longer
    async with asyncio.timeout(PATIENCE):
        ends = await asyncio.gather(*theirs)
    assert [each.kind for each in ends] == ["error"] * len(ends)
    assert all("revoked" in json.dumps(each.data) for each in ends)
    lags.add("streams after a revocation", *(each.at - at for each in ends))
    for part in found.apis:
        async with client_of(part.address, token) as client:
            assert (await client.get("/api/v1/users/me")).status_code == 401
    assert not going.done(), "nobody else's ends"
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    if how == "disable":
        await _commanded(found, "enable", name)
    async with asyncio.timeout(PATIENCE):
        while True:  # an enabled one is let in by a replica as soon as it has heard
            anew = await logged_in(found.address, name)
            async with client_of(here.address, anew) as client:
                if (await client.post(f"{OURS}/{id}/cancel")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


async def _commanded(found: Cluster, how: str, name: str) -> float:
    """Run ``loquent users`` so; when the record was changed, by the clock that does not jump."""
    folder = found.folder / f"operator-{how}"
    folder.mkdir(exist_ok=True)
    process = start(folder, f"users {how} {name}", **found.apis[0].environ)
    assert await end_of(process) == 0, next(folder.glob("*.log")).read_text()
    with psycopg.connect(found.database) as opened:
        [(at,)] = opened.execute("SELECT tokens_from FROM users WHERE username = %s", (name,)).fetchall()
    return time.monotonic() - (time.time() - at / 1_000_000)


async def run(
    folder: Path, postgres: PostgresServer, *, silence: float, seconds: float, rounds: int
) -> tuple[Lags, tuple[int, int]]:
    """All of it, on one set-up without a broker: what is found out, and the comments in the silence."""
    lags = Lags()
    async with cluster(folder, postgres, workers=0) as found:
        token = await logged_in(found.address, "someone")
        silent = asyncio.create_task(be_silent(found, token, silence))
        try:
            await compare_gaps(found, token, lags, seconds=seconds)
            await asyncio.gather(
                follow_elsewhere(found, token, lags, words=int(seconds * 50)),
                resume_elsewhere(found, token, words=int(seconds * 50)),
                administer(found, token, lags, rounds),
            )
            await asyncio.gather(*(revoke(found, lags, how) for how in ("disable", "revoke")))
            return lags, await silent
        finally:
            silent.cancel()
            await asyncio.gather(silent, return_exceptions=True)


def main() -> None:
    """Run it from the command line, at any length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silence", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, postgres_server() as postgres:
        length = {"silence": asked.silence, "seconds": asked.seconds, "rounds": asked.rounds}
        lags, comments = asyncio.run(run(Path(made), postgres, **length))
    sys.stdout.write(f"{lags}\ncomments in {asked.silence:g} s of silence: {comments}\n")
    through, past = (p99(lags.found[f"gaps {way} nginx"]) for way in ("through", "past"))
    assert through < past + 0.05, "chunks come as evenly through nginx as past it"


if __name__ == "__main__":
    main()
