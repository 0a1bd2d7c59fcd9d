"""Bad input, on every route there is: each is answered by a problem that names it, and nothing is stored.

The battery is made from the route table and the OpenAPI document, so that a new route is in it by itself.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from asking import JSON, MULTIPART, Answer, Headers, admin_of, ask, form, fresh, kept, serving, token_of
from loquent.domain.clock import SECOND, now
from loquent.web.edge import Edge
from loquent.wiring import Services
from making import filled
from surfaces import (
    ACCESS,
    ADMIN,
    DETAILS,
    FORMS,
    KNOWN,
    OWNER,
    PUBLIC,
    SAMPLES,
    TOKEN,
    document,
    routes,
    sample,
    taking,
    types,
)

pytestmark = pytest.mark.anyio

SECRET = "a secret of the tests, of 32 bytes or more"
CLOSED = (KNOWN, OWNER, TOKEN, ADMIN)
URLENCODED = ("content-type", "application/x-www-form-urlencoded")
MOST = 20_000  # bytes of a body, as these tests set it
DEEP = 100_000  # brackets
UGLY = ("NaN", "Infinity", "-Infinity", "1e999", "9223372036854775808", "-9223372036854775809", "1" * 5_000)
UGLY_TEXTS = (r'"\ud800"', r'"\udfff\ud800"', r'"\u0000"', '"\0"', r'{"\u0000": 1}', r'["\ud800"]')
OTHERS = (True, "text", 7.5, {}, [])
JSON_TYPES = {bool: "boolean", str: "string", float: "number", dict: "object", list: "array"}
STRICT = {"LOQUENT_SECRET": SECRET, "LOQUENT_MAX_BODY": str(MOST), "LOQUENT_MAX_UPLOAD": str(MOST)}


class Blow(NamedTuple):
    """One bad request: what it is called, what is sent, and what the answer must name."""

    name: str
    body: bytes | list[bytes]
    headers: Headers = (JSON,)
    names: str = ""
    length: int | None = None


def blows(
    sample: Mapping[str, Any], properties: Mapping[str, Any], required: Collection[str] | None = None
) -> Iterator[Blow]:
    """Everything bad that can be made of a good body; None: it needs all that is in it."""
    good = json.dumps(sample).encode()
    for media in ("", "text/plain", URLENCODED[1], "multipart/form-data", "application/jsonp", "a" * 500):
        yield Blow(f"Content-Type {media[:40]!r}", good, [("content-type", media)] if media else [], "Content-Type")
    yield Blow("empty", b"", names="body")
    yield Blow("truncated", good[:-1], names="JSON")
    yield Blow("cut in a text", good[: good.rindex(b'"')], names="JSON")
    yield Blow("two bodies", good + good, names="JSON")
    yield Blow("not JSON", b"prompt=text", names="JSON")
    yield Blow("not UTF-8", good.replace(b'"', b'"\xff', 3), names="UTF-8")
    yield Blow("UTF-16", good.decode().encode("utf-16"), names="UTF-8")
    yield Blow("byte order mark", b"\xef\xbb\xbf" + good, names="JSON")
    yield Blow("surrogates as bytes", good[:-2] + b'\xed\xa0\x80"}', names="UTF-8")
    yield Blow("deep arrays", b"[" * DEEP + b"]" * DEEP, length=None, names="")
    yield Blow("deep objects", b'{"a":' * 3_000 + b"1" + b"}" * 3_000, names="deeper")
    yield Blow("an array", b"[" + good + b"]")
    yield Blow("null", b"null")
    yield Blow("a number", b"7")
    yield Blow("a text", b'"text"')
    yield Blow("over the limit, as told", good, names="bytes", length=MOST + 1)
    yield Blow("over the limit, in chunks", [b" " * 1_000] * (MOST // 1_000 + 1) + [good], names="bytes")
    yield Blow("a length that is none", good, [JSON, ("content-length", "many")], "Content-Length")
    for known, value in sample.items():
        twice = json.dumps({known: value})[:-1] + "," + json.dumps(sample)[1:]
        yield Blow(f"{known} twice", twice.encode(), names=known)
        if required is None or known in required:
            yield Blow(f"no {known}", json.dumps({**{k: v for k, v in sample.items() if k != known}}).encode())
    yield Blow("unknown field", json.dumps({**sample, "frobnicate": 1}).encode(), names="frobnicate")
    for name, schema in properties.items():
        for ugly in (*UGLY, *UGLY_TEXTS, "[" * 200 + "]" * 200):
            put = json.dumps({**sample, name: "@"}).replace('"@"', ugly)
            yield Blow(f"{name}: {ugly[:30]!r}", put.encode())
        other = next(each for each in OTHERS if JSON_TYPES[type(each)] not in types(schema))
        yield Blow(f"{name}: {other!r}", json.dumps({**sample, name: other}).encode(), names=name)


def form_blows(fields: Mapping[str, str | bytes]) -> Iterator[Blow]:
    """Everything bad that can be made of a good form."""
    name = next(iter(fields))
    whole = form(fields)
    encoded = "&".join(f"{name}=text" for name in fields).encode()
    yield Blow("JSON", json.dumps(dict.fromkeys(fields, "text")).encode(), [JSON], "Content-Type")
    yield Blow("no Content-Type", whole, [], "Content-Type")
    yield Blow("text/plain", whole, [("content-type", "text/plain")], "Content-Type")
    yield Blow("no boundary", whole, [("content-type", "multipart/form-data")], "boundary")
    yield Blow("another boundary", whole, [("content-type", "multipart/form-data; boundary=other")])
    yield Blow("empty", b"", [MULTIPART], name)
    yield Blow("empty, encoded", b"", [URLENCODED], name)
    yield Blow("cut off", whole[: len(whole) // 2], [MULTIPART])
    yield Blow("no fields", b"--edge--\r\n", [MULTIPART], name)
    yield Blow("nonsense", b"\xff\x00\x01" * 100, [MULTIPART])
    yield Blow("no name", whole.replace(b"; name=", b"; eman="), [MULTIPART])
    yield Blow("a part twice", form(fields, {name: fields[name]}), [MULTIPART], f"{name} stands twice")
    yield Blow("a field twice", encoded + b"&" + encoded, [URLENCODED])
    yield Blow("many fields", encoded + b"&a=1" * 3_000, [URLENCODED])
    yield Blow("over the limit, as told", whole, [MULTIPART], "bytes", MOST + 1)
    yield Blow("over the limit, in chunks", [whole, *([b" " * 1_000] * (MOST // 1_000))], [MULTIPART], "bytes")
    if "file" not in fields:
        yield Blow("NUL", encoded.replace(b"text", b"%00"), [URLENCODED], "NUL")
        yield Blow("too long", encoded.replace(b"text", b"x" * 5_000), [URLENCODED], name)
    else:
        yield Blow("a text for a file", encoded, [URLENCODED], name)


def fault(answer: Answer, path: str, names: str = "") -> str | None:
    """What is wrong with the answer to something bad; None where it is as it must be."""
    if not 400 <= answer.status < 500:
        return f"answered {answer.status}: {answer.body[:80]!r}"
    if not answer.is_whole:
        return "an answer without an end"
    try:
        said = answer.json()
    except ValueError:
        return "the answer is not JSON"
    media = answer.header("content-type")
    if path.startswith("/v1/"):
        if media != "application/json" or set(said) != {"error"}:
            return f"not as OpenAI says it: {said}"
        error = said["error"]
        if set(error) != {"message", "type", "param", "code"} or not error["message"]:
            return f"not as OpenAI says it: {said}"
        text = f"{error['message']} {error['param']}"
    elif like := next((like for begins, like in DETAILS.items() if path.startswith(begins)), None):
        if media != "application/json" or set(said) != {"detail"} or not re.fullmatch(like, said["detail"], re.DOTALL):
            return f"not as the family says it: {said}"
        text = said["detail"]
    else:
        if media != "application/problem+json" or said.get("status") != answer.status:
            return f"not a problem document: {said}"
        if not all(said.get(name) for name in ("type", "title", "detail", "request_id")):
            return f"a problem with gaps: {said}"
        if said["request_id"] != answer.header("x-request-id"):
            return "another request's id"
        text = f"{said['detail']} {said.get('field')}"
    return None if names.lower() in text.lower() else f"does not name {names!r}: {text[:200]}"


async def complaints(app: Any, path: str, battery: Iterator[Blow], who: Headers = ()) -> list[str]:
    """What the battery finds wrong with a route."""
    found = []
    for blow in battery:
        try:
            answer = await ask(app, "POST", path, headers=[*blow.headers, *who], body=blow.body, length=blow.length)
        except Exception as error:
            found.append(f"{blow.name}: raised {error!r}")
            continue
        if wrong := fault(answer, path, blow.names):
            found.append(f"{blow.name}: {wrong}")
    return found


def test_every_route_has_a_row_in_the_matrix_and_every_body_a_sample() -> None:
    assert routes() == set(ACCESS)
    assert set(taking("application/json")) == set(SAMPLES)
    assert set(taking("multipart/form-data")) | set(taking(URLENCODED[1])) == set(FORMS)


@pytest.mark.parametrize("path", SAMPLES)
async def test_no_bad_body_comes_through(tmp_path: Path, path: str) -> None:
    schema = taking("application/json")[path]
    async with serving(tmp_path, works=False, **STRICT) as (app, services):
        who = await who_for(services, path)
        before = await kept(services)
        for spelling in (path, f"{path}/"):
            battery = list(blows(SAMPLES[path], schema["properties"], schema.get("required", ())))
            assert len(battery) > 40
            assert await complaints(app, spelling, iter(battery), who) == []
        assert await kept(services) == before
        target, body = await filled(app, path, SAMPLES[path], {"headers": who})
        good = await ask(app, "POST", target, headers=[JSON, *who], body=body)
        assert good.status in (200, 201), "the sample itself is good"
        assert await kept(services) != before, "and is stored: the counts can tell"


@pytest.mark.filterwarnings("ignore:Exception ignored in.*SpooledTemporaryFile")  # Starlette lets go of it late
@pytest.mark.parametrize("path", FORMS)
async def test_no_bad_form_comes_through(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, works=False, **STRICT) as (app, services):
        who = await who_for(services, path)
        assert await complaints(app, path, form_blows(FORMS[path]), who) == []
        assert not any((await kept(services)).values())
        await services.accounts.register("carol", "a long enough one")
        good = await ask(app, "POST", f"{path}/", headers=[MULTIPART, *who], body=form(FORMS[path]))
        assert good.status in (200, 201), good.body


class Bare(BaseModel):
    prompt: str
    count: int = 1
    weight: float = 0
    anything: Any = None


def bare_app() -> FastAPI:
    """A route as one writes it without a second thought: no guard of ours is there."""
    app = FastAPI()

    @app.post("/bare")
    async def bare(body: Bare) -> dict[str, str]:
        return {"prompt": body.prompt}

    return app


async def who_for(services: Services, path: str, method: str = "POST") -> Headers:
    """The headers of somebody whom that lets in."""
    if ACCESS[method, path] == ADMIN:
        return bearer(await admin_of(services))
    return bearer(token_of(services, "ann")) if ACCESS[method, path] == TOKEN else []


async def test_the_battery_sees_when_the_guards_are_off() -> None:
    found = await complaints(bare_app(), "/bare", blows({"prompt": "x"}, Bare.model_json_schema()["properties"]))
    for guard in (
        "prompt twice: answered 200",
        "unknown field: answered 200",
        "weight: 'NaN': answered 200",
        "weight: '1e999': answered 200",
        "count: '9223372036854775808': answered 200",
        "prompt: '\"\\\\u0000\"': answered 200",
        "prompt: '\"\\\\ud800\"': raised",
        "anything: '[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[': answered 200",
        "over the limit, in chunks: answered 200",
        "truncated: not a problem document",
    ):
        assert any(each.startswith(guard) for each in found), (guard, found)


# Bodies that do not come


@pytest.mark.parametrize("path", [*SAMPLES, *FORMS])
@pytest.mark.parametrize("told", [100, None], ids=["told length", "in chunks"])
async def test_a_body_that_does_not_come_in_time_is_given_up(tmp_path: Path, path: str, told: int | None) -> None:
    media = JSON if path in SAMPLES else MULTIPART
    async with serving(tmp_path, works=False, LOQUENT_BODY_SECONDS="0.05") as (app, services):
        begins, headers = b'{"pr' if path in SAMPLES else b"--edge\r\nCont", [media, *await who_for(services, path)]
        before = await kept(services)
        answer = await ask(app, "POST", path, headers=headers, body=[begins], ends=False, length=told)
        assert (answer.status, fault(answer, path, "0.05 seconds")) == (408, None)
        assert await kept(services) == before


@pytest.mark.parametrize("path", [*SAMPLES, *FORMS])
async def test_a_body_that_is_waited_for_when_the_server_stops_is_told(tmp_path: Path, path: str) -> None:
    media = JSON if path in SAMPLES else MULTIPART
    async with serving(tmp_path, works=False) as (app, services):
        begins, headers = b'{"pr' if path in SAMPLES else b"--edge\r\nCont", [media, *await who_for(services, path)]
        asking = asyncio.create_task(ask(app, "POST", path, headers=headers, body=[begins], ends=False, length=100))
        while not app.in_flight:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        app.hurry()
        answer = await asking
        assert (answer.status, b"the server is stopping" in answer.body) == (503, True)
        assert answer.header("retry-after") == "5"


@pytest.mark.parametrize("path", [*SAMPLES, *FORMS])
async def test_who_leaves_before_the_end_of_the_body_leaves_nothing_behind(tmp_path: Path, path: str) -> None:
    media = JSON if path in SAMPLES else MULTIPART
    async with serving(tmp_path, works=False) as (app, services):
        answer = await ask(app, "POST", path, headers=[media], body=[b'{"pr'], ends=False, leaves=True)
        assert fault(answer, path) is None, "said to a client who may not be there any more"
        assert not any((await kept(services)).values())


async def test_a_body_that_nobody_reads_does_not_cut_the_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, LOQUENT_BODY_SECONDS="0.05") as (app, _):
        made = await ask(app, "POST", "/api/v1/generations", headers=[JSON], body=b'{"prompt":"x","background":true}')
        id = made.json()["id"]
        answer = await ask(app, "POST", f"/api/v1/generations/{id}/cancel", body=[b"x"], ends=False)
        assert answer.json()["status"] == "cancelled"
        await asyncio.sleep(0.1)  # the time is over, and the task that it was for still lives


async def test_a_stream_does_not_outlive_a_body_that_never_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_BODY_SECONDS="0.05") as (app, _):
        body = b'{"prompt":"[hang] x","background":true}'
        made = await ask(app, "POST", "/api/v1/generations", headers=[JSON], body=body)
        path = f"/api/v1/generations/{made.json()['id']}/events"
        async with asyncio.timeout(10):
            answer = await ask(app, "GET", path, body=[b"x"], ends=False)
        assert not answer.is_whole


# Headers and hosts


@pytest.mark.parametrize("path", ["/api/v1/health", "/v1/models", "/", "/nowhere"])
async def test_too_many_or_too_large_headers_are_refused(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, works=False) as (app, _):
        many, large = [(f"x-{n}", "1") for n in range(101)], [("x-large", "x" * 66_000)]
        for headers in (many, large, [("x-same", "x" * 1_000)] * 80):
            answer = await ask(app, "GET", path, headers=headers)
            assert (answer.status, fault(answer, path, "headers")) == (431, None)


async def test_a_body_whose_end_is_told_in_two_ways_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False) as (app, _):
        both = [JSON, ("transfer-encoding", "chunked")]
        answer = await ask(app, "POST", "/api/v1/generations", headers=both, body=b'{"prompt":"x"}')
        assert (answer.status, fault(answer, "/", "Transfer-Encoding")) == (400, None)


async def test_what_clients_do_wrong_is_no_fault_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path, works=False, LOQUENT_BODY_SECONDS="0.05", LOQUENT_MAX_BODY="1000") as (app, _):
        for path in SAMPLES:
            await ask(app, "POST", path, headers=[JSON], body=[b"{"], ends=False)
            await ask(app, "POST", path, headers=[JSON], body=[b"{"], ends=False, leaves=True)
            await ask(app, "POST", path, headers=[JSON], body=[b" " * 600] * 2)
            await ask(app, "POST", path, headers=[JSON], body=b"{")
    assert [each for each in caplog.records if each.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("path", ["/api/v1/health", "/v1/models", "/"])
async def test_another_host_is_not_served(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, works=False) as (app, _):
        for name in ("evil.example", "localhost.evil.example", "localhost:80@evil.example", "", "127.0.0.1.nip.io"):
            answer = await ask(app, "GET", path, headers=[("host", name)], host=False)
            assert (answer.status, fault(answer, path, "host")) == (421, None), name
        assert (await ask(app, "GET", path, host=False)).status == 421
        for name in ("localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]", "[::1]:8000"):
            assert (await ask(app, "GET", path, headers=[("host", name)], host=False)).status == 200, name


@pytest.mark.parametrize("name", ["authorization", "content-type", "content-length", "host", "idempotency-key"])
@pytest.mark.parametrize("path", ["/api/v1/summaries", "/v1/chat/completions"])
async def test_a_header_of_which_one_can_be_meant_stands_once(tmp_path: Path, path: str, name: str) -> None:
    good = {"authorization": "Bearer x", "content-type": JSON[1], "content-length": "2", "host": "localhost"}
    value = good.get(name, "key")
    async with serving(tmp_path, works=False) as (app, services):
        twice = [(name, value)] * (2 if name not in ("content-length", "host") else 1)
        answer = await ask(app, "POST", path, headers=twice, body=b"{}")
        assert (answer.status, fault(answer, path, name)) == (400, None)
        assert not any((await kept(services)).values())


async def test_a_request_id_of_the_callers_is_kept_where_it_is_one(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False) as (app, _):
        for given, is_kept in (("abc-1.2:3_4", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False)):
            answer = await ask(app, "GET", "/api/v1/health", headers=[("x-request-id", given)])
            assert (answer.header("x-request-id") == given) == is_kept


# Queries and paths


def bad_values(parameter: Mapping[str, Any]) -> Iterator[str]:
    """Values that no parameter of this schema takes."""
    yield "%00"
    found = types(parameter["schema"])
    if "integer" in found:
        yield from (
            "-1",
            "0",
            "1" + "0" * 20,
            "9" * 5_000,
            "text",
            "1.5",
            "1e3",
            "",
            "NaN",
            "0x10",
            "%EF%BC%91",
            "true",
        )
    else:
        yield "x" * 10_000
    if parameter["name"] == "after":
        yield from ("nonsense", "usr_1", "gen_", "%ff", "../gen_1")
    if parameter["name"].startswith("created_"):
        yield from ("yesterday", "2026-13-01", "99999-01-01", "12", "2026-01-01T25:00:00Z", "%ff")
    if any("enum" in each for each in parameter["schema"].get("anyOf", ())):
        yield from ("nonsense", "", "COMPLETED", "%ff")


QUERIES = [
    (path, each)
    for path, operations in document()["paths"].items()
    for each in operations.get("get", {}).get("parameters", ())
    if each["in"] == "query"
]


@pytest.mark.parametrize(("path", "parameter"), QUERIES, ids=[f"{path}?{each['name']}" for path, each in QUERIES])
async def test_no_bad_query_comes_through(tmp_path: Path, path: str, parameter: dict[str, Any]) -> None:
    name = parameter["name"]
    async with serving(tmp_path, works=False) as (app, _):
        found = {}
        for value in bad_values(parameter):
            answer = await ask(app, "GET", f"{path}?{name}={value}")
            found[value[:40]] = fault(answer, path, name if "%00" not in value else "")
        twice = await ask(app, "GET", f"{path}?{name}=1&{name}=1")
        found["twice"] = fault(twice, path, f"{name} stands twice")
    assert {value: wrong for value, wrong in found.items() if wrong} == {}


def test_the_battery_of_queries_has_all_of_them() -> None:
    assert {("/api/v1/generations", "limit"), ("/api/v1/generations", "after"), ("/api/v1/summaries", "page")} <= {
        (path, each["name"]) for path, each in QUERIES
    }


async def test_bounds_of_time_before_time_began_are_no_bounds(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False) as (app, _):
        await ask(app, "POST", "/api/v1/generations", headers=[JSON], body=b'{"prompt":"x"}')
        for query, number in (
            ("created_after=0001-01-01", 1),
            ("created_before=0001-01-01", 0),
            ("created_after=9999-12-31", 0),
            ("created_before=9999-12-31", 1),
        ):
            answer = await ask(app, "GET", f"/api/v1/generations?{query}")
            assert len(answer.json()["data"]) == number, query


WITH_PARTS = [(method, path) for method, path in sorted(ACCESS) if "{" in path]
BAD_PARTS = (
    "x",
    "%00",
    "..%2f",
    "..%2f..%2fetc%2fpasswd",
    "%ff%fe",
    "x" * 10_000,
    "gen_" + "0" * 32,
    "%20",
    "'--",
    "{id}",
)


@pytest.mark.parametrize(("method", "path"), WITH_PARTS, ids=[f"{method} {path}" for method, path in WITH_PARTS])
async def test_no_bad_part_of_a_path_comes_through(tmp_path: Path, method: str, path: str) -> None:
    async with serving(tmp_path, works=False) as (app, services):
        who = await who_for(services, path, method) if ACCESS[method, path] == ADMIN else []
        found = {}
        for part in (*BAD_PARTS, fresh(), fresh("usr")):
            target = path
            for name in ("{id}", "{name:path}", "{asked}"):
                target = target.replace(name, part)
            for spelling in (target, f"{target}/"):
                good = sample(method, path)
                body = json.dumps(good).encode() if good else None
                answer = await ask(app, method, spelling, headers=[*([JSON] if good else []), *who], body=body)
                if wrong := fault(answer, path):
                    found[spelling[:60]] = wrong
                assert answer.status in (404, 422), spelling[:60]
    assert found == {}


async def test_other_methods_are_told_which_there_are(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False) as (app, services):
        for path in sorted({path for _, path in ACCESS if "{" not in path}):
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {known for known, at in ACCESS if at == path}:
                answer = await ask(app, method, path, headers=[JSON], body=b"{}")
                assert fault(answer, path) is None, (method, path)
                if (method, path.rpartition("/")[0] + "/{id}") not in ACCESS:  # else it is the one called so
                    assert (answer.status, bool(answer.header("allow"))) == (405, True), (method, path)
        for path in ("/nowhere", "/api/v1", "/api/v2/generations", "/v1/nowhere", "//", "/api/v1/generations//"):
            answer = await ask(app, "POST", path, headers=[JSON], body=b'{"prompt": "x"}')
            if path != "/api/v1/generations//":
                assert (answer.status, fault(answer, path)) == (404, None), path
        assert (await kept(services))["users"] == 0


# Tokens


def bad_tokens(services: Services) -> dict[str, Headers]:
    """Authorization that nobody may come in with."""
    seconds = now() // SECOND
    good = {"sub": "ann", "uid": "usr_ann", "tid": "default", "iat": seconds, "exp": seconds + 60}
    good |= {"iss": "loquent", "aud": "loquent", "jti": "jti_1"}

    def signed(secret: str | None = SECRET, algorithm: str | None = "HS256", **claims: Any) -> Headers:
        return bearer(jwt.encode({**good, **claims}, secret, algorithm=algorithm))  # type: ignore[arg-type]

    def without(name: str) -> Headers:
        return bearer(jwt.encode({known: said for known, said in good.items() if known != name}, SECRET))

    head, body, mark = token_of(services, "ann").split(".")
    return {
        "nothing": [],
        "algorithm none": signed(None, "none"),
        "algorithm none, with a mark": bearer(f"{jwt.encode(good, None, algorithm='none')}{mark}"),
        "algorithm HS512": signed(SECRET * 2, "HS512"),
        "another secret": signed(SECRET[::-1]),
        "no secret": signed(" " * 32),
        "expired": signed(exp=seconds - 1),
        "another mark": bearer(f"{head}.{body}.{mark[::-1]}"),
        "another audience": signed(aud="another"),
        "another issuer": signed(iss="another"),
        **{f"no {name}": without(name) for name in good},
        "cut off": bearer(f"{head}.{body}."),
        "changed": bearer(f"{head}.{body[:-2]}AA.{mark}"),
        "garbage": bearer("garbage"),
        "three dots": bearer("..."),
        "not ASCII": bearer("\xe9.\xe9.\xe9"),
        "very long": bearer("x" * 5_000),
        "empty": [("authorization", "")],
        "no token": [("authorization", "Bearer")],
        "a space": [("authorization", "Bearer  ")],
        "another scheme": [("authorization", "Basic YW5uOnB3")],
        "a good one in another scheme": [("authorization", f"Token {head}.{body}.{mark}")],
        "no scheme": [("authorization", f"{head}.{body}.{mark}")],
        "two, one of them good": [*bearer(f"{head}.{body}.{mark}"), *bearer("garbage")],
        "two, the other one good": [*bearer("garbage"), *bearer(f"{head}.{body}.{mark}")],
        "two in one line": bearer(f"{head}.{body}.{mark}, Bearer garbage"),
    }


def bearer(token: str) -> Headers:
    return [("authorization", f"Bearer {token}")]


def requests(who: str) -> Iterator[tuple[str, str, Headers, bytes | None]]:
    """A good request of every route that such callers may call."""
    for method, path in sorted(key for key, row in ACCESS.items() if row == who):
        target = path.replace("{id}", fresh()).replace("{name:path}", "echo").replace("{asked}", "1")
        if (method, path) == ("POST", "/api/v1/summaries/files"):
            yield method, target, [MULTIPART], form(FORMS[path])
        elif method == "POST" and path in SAMPLES:
            yield method, target, [JSON], json.dumps(SAMPLES[path]).encode()
        else:
            yield method, target, [], None


async def refusals(app: Edge, headers: Headers) -> dict[str, str]:
    """Where somebody with these headers was let in, or was refused in another way than with 401."""
    found = {}
    for who in CLOSED:
        for method, target, own, body in requests(who):
            answer = await ask(app, method, target, headers=[*own, *headers], body=body)
            wrong = fault(answer, target)
            if wrong or answer.status not in ((400,) if len(headers) == 2 else (401,)):
                found[f"{method} {target}"] = wrong or str(answer.status)
            elif answer.status == 401 and answer.header("www-authenticate") != "Bearer":
                found[f"{method} {target}"] = "no WWW-Authenticate"
    return found


async def test_nobody_comes_in_with_a_bad_token(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, LOQUENT_ANONYMOUS="off", **STRICT) as (app, services):
        found = {name: await refusals(app, headers) for name, headers in bad_tokens(services).items()}
        assert {name: wrong for name, wrong in found.items() if wrong} == {}
        assert not any((await kept(services)).values())
        good = await refusals(app, bearer(token_of(services, "ann")))
        closed = [row for row in ACCESS.values() if row in CLOSED]
        assert len(good) == len(closed), "a good one comes in everywhere"


async def test_who_is_not_known_is_told_so_before_the_body_is_looked_at(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, LOQUENT_ANONYMOUS="off") as (app, _):
        for method, target, own, body in (*requests(KNOWN), *requests(TOKEN), *requests(ADMIN)):
            if body is not None:
                answer = await ask(app, method, target, headers=own, body=[b"{"], ends=False)
                assert answer.status == 401, target


async def test_public_routes_are_open_to_all(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, LOQUENT_ANONYMOUS="off") as (app, _):
        for method, target, own, body in requests(PUBLIC):
            if "static" not in target and "token" not in target:
                assert (await ask(app, method, target, headers=own, body=body)).status in (200, 201), target


async def test_where_anonymous_callers_are_served_a_bad_token_is_still_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, **STRICT) as (app, services):
        tokens = bad_tokens(services)
        for name in ("algorithm none", "expired", "another audience", "changed"):
            assert await refusals(app, tokens[name]) == {}, name
        answer = await ask(app, "GET", "/v1/models", headers=bearer("sk-anything"))
        assert answer.status in (200, 401)
