"""A provider's key goes to its provider, and nowhere else: not into a log, an answer, a record or a report.

A server of ours calls one that gives the key away in whatever it answers; afterwards the key is looked for in all that
there is to see. The same look finds keys that were planted.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sqlite3
import traceback
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from alembic import command
from sqlalchemy import create_engine

from built import settings_for
from forking import ran
from leaky import FAULTS, GOOD, TELLS, leaky, way_of
from loquent.domain.errors import LoquentError
from loquent.domain.requests import Message, Parameters, Picture
from loquent.engines import Options
from loquent.ports.engine import Ask
from loquent.stores import migrations
from loquent.wiring import build
from samples import pictures
from scripted import Caller, Upstream, listening
from serving import served

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SHAPES = {"openai": ("whole", "stream", "later"), "anthropic": ("whole", "stream", "later")}
SHAPES |= {"http_text": ("prompt", "later"), "http_image": ("image",)}
ABILITIES = {
    "openai": ["chat", "text"],
    "anthropic": ["chat"],
    "http_text": ["text"],
    "http_image": ["vision", "boolean"],
}
KEYS = {f"KEY_OF_{engine.upper()}": f"sk-{number}c4b19e7-of-{engine}" for number, engine in enumerate(SHAPES)}
FILED = "sk-9a81e44-in-a-file"
OWN = {"OPENAI_API_KEY": "sk-7d20fa3-of-our-own", "LOQUENT_SECRET": "a9f3-the-secret-of-the-house-that-signs-tokens"}
MARKS = [key[:11].encode() for key in (*KEYS.values(), *OWN.values(), FILED)]
"""What a key begins with; a key that was cut is found, too."""


def leaks(places: Mapping[str, bytes]) -> list[str]:
    """The places where a key stands."""
    return [name for name, said in places.items() if any(mark in said for mark in MARKS)]


def row(url: str, engine: str, way: str, shape: str, **more: Any) -> str:
    timeouts = {"total": 0.3, "first": 0.2, "idle": 0.2} if way == "silent" else {"total": 60}
    fields = {
        "name": f"{engine}-{way}-{shape}",
        "engine": engine,
        "id": "m",
        "url": f"{url}/{way}",
        "abilities": ABILITIES[engine],
        "retries": 0,
        **({"key_env": f"KEY_OF_{engine.upper()}"} if "key_file" not in more else {}),
        **more,
    }
    said = "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
    limits = "".join(f"{name} = {value}\n" for name, value in timeouts.items())
    return f"[[model]]\n{said}[model.timeouts]\n{limits}"


def settings(folder: Path, url: str, rows: Iterable[str]) -> dict[str, str]:
    """The environment of a deployment with those rows, that logs all there is."""
    (folder / "rows.toml").write_text("\n".join(rows))
    return {
        **KEYS,
        **OWN,
        "OPENAI_BASE_URL": f"{url}/{GOOD}",
        "LOQUENT_MODELS": str(folder / "rows.toml"),
        "LOQUENT_SUMMARY_MODEL": "gpt-4o-mini",
        "LOQUENT_DATA_DIR": str(folder / "data"),
        "LOQUENT_LOG_LEVELS": "root=DEBUG",
        "LOQUENT_MAX_ATTEMPTS": "1",
        "DEBUG": "on",
        "LOG_CONTENT": "on",
    }


async def asked(client: httpx2.AsyncClient, model: str, shape: str, picture: str) -> bytes:
    """All that is answered, head and body, to one question put to that model; ``picture``: the id of one."""
    said = {"messages": [{"role": "user", "content": "hello"}]}
    if shape in ("whole", "stream"):
        answers = [
            await client.post("/v1/chat/completions", json={"model": model, "stream": shape == "stream", **said})
        ]
    elif shape == "prompt":
        answers = [await client.post("/v1/completions", json={"model": model, "prompt": "hello"})]
    elif shape == "image":
        path = f"/api/v1/images/{picture}/generations"
        answers = [await client.post(path, json={"model": model, "prompt": "hello"})]
    else:
        body = {"model": model, "background": True, **({"prompt": "hello"} if "http_text" in model else said)}
        answers = [await client.post("/api/v1/generations", json=body)]
        assert answers[0].status_code == 202, answers[0].text
        while (answer := await client.get(answers[0].headers["location"])).json()["status"] in (
            "pending",
            "processing",
        ):
            await asyncio.sleep(0.02)
        answers.append(answer)
    return b"\n".join(shown(answer) for answer in answers)


def shown(answer: httpx2.Response) -> bytes:
    return b"\n".join([*itertools.chain.from_iterable(answer.headers.raw), answer.content])


PAGES = (
    *("/v1/models", "/api/v1/models", "/api/v1/generations?limit=100", "/api/v1/history?limit=100"),
    *("/api/v1/history/export", "/api/v1/health/detailed", "/metrics", "/api/v1/openapi.json", "/"),
)


async def driven(folder: Path, environ: Mapping[str, str], questions: Iterable[tuple[str, str]]) -> dict[str, bytes]:
    """All that there is to see of a server after these questions, by where it stands."""
    seen: dict[str, bytes] = {}
    with served(folder, **environ) as server:
        async with httpx2.AsyncClient(base_url=server.url, timeout=30) as client:
            line = asyncio.Semaphore(16)
            sent = await client.post("/api/v1/images", files={"file": ("a.png", pictures.plain("PNG"), "image/png")})
            seen["a picture"] = shown(sent)

            async def put(model: str, shape: str) -> None:
                async with line:
                    seen[f"{model} {shape}"] = await asked(client, model, shape, sent.json()["id"])

            await asyncio.gather(*(put(*question) for question in questions))
            for page in PAGES:
                answer = await client.get(page)
                assert answer.status_code == 200, page
                seen[page] = shown(answer)
    seen["output"] = server.log.read_bytes()
    seen |= {
        str(path.relative_to(folder)): path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file()
    }
    seen["records"] = records(folder / "data" / "loquent.db")
    commands = ("doctor", "models list", "models list --json")
    return seen | {command: await asyncio.to_thread(told, folder, command, environ) for command in commands}


def records(file: Path) -> bytes:
    """Everything in the database, whole: in the file itself, a long value lies in parts."""
    with closing(sqlite3.connect(file)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        rows = [row for table in tables for row in database.execute(f'select * from "{table}"')]  # noqa: S608  (its own)
    values = itertools.chain.from_iterable(rows)
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


def told(folder: Path, command: str, environ: Mapping[str, str]) -> bytes:
    """What a command of the command line prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOQUENT_", "OPENAI_"))}
    done = ran("loquent", *command.split(), folder=folder, environ={**kept, "COLUMNS": "300", **environ})
    assert len(done.stdout.splitlines()) >= 5, done
    return (done.stdout + done.stderr).encode()


async def silence(caller: Caller) -> None:
    raise AssertionError("nobody is to call here")


async def test_a_key_is_nowhere_to_be_seen_whatever_its_server_does_with_it(tmp_path: Path) -> None:
    async with listening(leaky) as (url, upstream), listening(silence) as (other, elsewhere):
        ways = [GOOD, *FAULTS, f"redirect-{other.rpartition(':')[2]}"]
        wanted = [(engine, way, shape) for engine, shapes in SHAPES.items() for way in ways for shape in shapes]
        file = tmp_path / "key"
        file.write_text(FILED)
        file.chmod(0o600)
        rows = [row(url, *each) for each in wanted]
        rows.append(row(url, "openai", "refused-401", "whole", name="filed", key_file=str(file)))
        questions = [(f"{engine}-{way}-{shape}", shape) for engine, way, shape in wanted]
        questions += [("filed", "whole"), ("gpt-4o-mini", "stream")]
        with_an_older_database(tmp_path)
        seen = await driven(tmp_path, settings(tmp_path, url, rows), questions)
    assert leaks(seen) == []
    assert elsewhere.connections == 0
    assert_each_was_tried(upstream, ways, len(questions))
    good = [
        b"fine" in seen[f"{engine}-{GOOD}-{shape} {shape}"]
        for engine in ("openai", "anthropic")
        for shape in SHAPES[engine]
    ]
    assert all(good)
    assert all(b"x-request-id" in seen[f"{model} {shape}"] for model, shape in questions)  # heads are among it
    assert {"data/app.log", "data/loquent.db"} <= seen.keys()
    assert b'"logger":"alembic' in seen["data/app.log"], "other libraries' loggers are among it"


def with_an_older_database(folder: Path) -> None:
    """One that the server has to upgrade as it starts, by a library that logs."""
    (folder / "data").mkdir()
    engine = create_engine(f"sqlite:///{folder / 'data' / 'loquent.db'}")
    with engine.begin() as connection:
        command.upgrade(migrations.configured(connection), "0001")
    engine.dispose()


def assert_each_was_tried(upstream: Upstream, ways: list[str], count: int) -> None:
    """Each question has come to the server, with a key."""
    calls = [caller for caller in upstream.seen if caller.line.startswith("POST")]
    assert {way_of(caller) for caller in calls} == set(ways)
    assert len(calls) == count
    sent = json.dumps([caller.headers for caller in calls]).encode()
    assert all(mark in sent for mark in MARKS if not OWN["LOQUENT_SECRET"].encode().startswith(mark))


async def test_the_look_finds_a_key_wherever_one_is_planted(tmp_path: Path) -> None:
    """The control: here the model's answer is the key, and so is the name of a row."""
    named = KEYS["KEY_OF_OPENAI"]
    async with listening(leaky) as (url, _):
        rows = [row(url, "openai", TELLS, shape) for shape in SHAPES["openai"]]
        rows.append(row(url, "openai", GOOD, "whole", name=named))
        questions = [(f"openai-{TELLS}-{shape}", shape) for shape in SHAPES["openai"]]
        seen = await driven(tmp_path, settings(tmp_path, url, rows), [*questions, (named, "whole")])
    found = set(leaks(seen))
    assert {f"{model} {shape}" for model, shape in questions} <= found
    assert found >= {"/v1/models", "/metrics", "/api/v1/history/export", "output", "data/app.log", "records"}
    assert found >= {"doctor", "models list", "models list --json"}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("keys")
async def test_no_object_shows_a_key(tmp_path: Path) -> None:
    rows = [row("http://127.0.0.1:9", engine, GOOD, "whole") for engine in SHAPES]
    services = build(settings_for(tmp_path, **settings(tmp_path, "http://127.0.0.1:9", rows)))
    engines: list[Any] = [offer.engine for offer in services.models.offers.values()]
    for engine in engines:
        await engine.open()
    options = Options(tmp_path, keys=KEYS)
    objects = [services, services.settings, services.models, options, services.tokens, services.answers]
    objects += [*services.models.offers.values(), *engines, *(engine._server for engine in engines)]
    for each in objects:
        assert leaks({type(each).__name__: f"{each!r} {each}".encode()}) == []
    for engine in engines:
        assert leaks({"vars": repr(vars(engine)).encode()}), "it has one that it could show"
        await engine.close()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("engine", SHAPES)
async def test_no_fault_of_an_engine_holds_a_key_in_all_its_chain(tmp_path: Path, engine: str) -> None:
    said = (Message("user", "hello", (Picture("image/png", b"x"),)),)
    async with listening(leaky) as (url, _):
        rows = [row(url, engine, way, "whole") for way in FAULTS]
        services = build(settings_for(tmp_path, **settings(tmp_path, url, rows)))
        for way in FAULTS:
            offer = services.models.offers[f"{engine}-{way}-whole"]
            await offer.engine.open()
            for is_streamed in (True, False):
                ask = Ask(offer.model, Parameters(), said, streamed=is_streamed)
                with pytest.raises(LoquentError) as raised:
                    [chunk async for chunk in offer.engine.stream(ask)]
                assert leaks({way: chain(raised.value).encode()}) == []
            try:
                await offer.engine.ready()
            except LoquentError as away:
                assert leaks({way: chain(away).encode()}) == []
            await offer.engine.close()


def chain(fault: BaseException | None) -> str:
    """A fault as a log may show it, and each that it came from, with what they hold."""
    told = "".join(traceback.format_exception(fault)) if fault is not None else ""
    while fault is not None:
        told += f"{fault!r} {fault.args!r} {vars(fault)!r}"
        fault = fault.__cause__ or fault.__context__
    return told
