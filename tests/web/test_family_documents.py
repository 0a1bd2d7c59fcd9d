"""The documents family's table, row by row, and what stands behind it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import httpx2
import pytest
from families import Case, both, check

from asking import ask, client_of, kept, serving, token_of
from built import ANN
from generator_server import Generator, generator_server
from loquent.domain.clock import later, now
from loquent.domain.ids import from_uuid
from loquent.services.documents import Question
from loquent.services.history import Filters
from loquent.wiring import Services

pytestmark = pytest.mark.anyio

UPLOAD, DETAILS, ALL = "/getdoc/uploadfile", "/getdoc/responsedetails", "/getdoc/allResponses"
TEXT = "The river Aare rises in the Alps. It flows around the old town of Bern. Many people swim in it in summer."
NAME = "aare.txt"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ERROR = {"detail": str}
ML = {"modelResponse": str, "isSuccess": True}
FIRST = {"_id": UUID, "user_id": str, "request_id": UUID, "prompt": TEXT, "ml_response": ML, "isSuccess": True}
OBJECT = {
    "_id": UUID,
    "user_id": str,
    "doc_url": re.compile("file:///.+"),
    "doc_name": NAME,
    "is_valid": True,
    "timestamp": TIME,
}
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        yield client, services


def part(data: bytes | str = TEXT, name: str | None = NAME) -> dict[str, Any]:
    return {"file": (name, data.encode() if isinstance(data, str) else data)}


async def uploaded(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """Something was uploaded."""
    answer = await client.post(UPLOAD, files=part())
    assert answer.status_code == 200, answer.text
    return {"id": answer.json()["_id"], "request": answer.json()["request_id"]}


async def uploaded_twice(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """Two things were, and something else was asked too."""
    await client.post("/api/v1/generations", json={"prompt": "no document"})
    first, second = await uploaded(client), await uploaded(client)
    return {"first": first["id"], "second": second["id"]}


def upload(name: str, status: int, shape: Any, **ask: Any) -> Case:
    return Case(f"POST {UPLOAD}", name, status, shape, ask)


def details(name: str, status: int, shape: Any, id: Any = "{id}") -> Case:
    return Case(f"GET {DETAILS}", name, status, shape, {"params": {"id": id}}, before=uploaded)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)
PDF = b"%PDF-1.7\n" + b"x" * 50
CASES = [
    upload("a text", 200, FIRST, files=part()),
    upload("named in capitals", 200, FIRST, files=part(name="A.TXT")),
    upload("in UTF-16", 200, FIRST, files=part(TEXT.encode("utf-16"))),
    upload("with a byte order mark", 200, FIRST, files=part(TEXT.encode("utf-8-sig"))),
    upload("in Latin-1", 200, FIRST | {"prompt": f"Café. {TEXT}"}, files=part(f"Café. {TEXT}".encode("latin-1"))),
    upload("with a field more", 200, FIRST, files=part(), data={"more": "x"}),
    upload("no file", 422, ERROR, data={"other": "x"}),
    upload("no form", 415, ERROR, json={"file": TEXT}),
    upload("nothing at all", 415, ERROR),
    upload("a field for a file", 422, ERROR, files={"other": (None, b"x")}, data={"file": TEXT}),
    upload("no name", 422, ERROR, files=part(name="")),
    upload("two files", 422, ERROR, files=[("file", ("a.txt", b"one")), ("file", ("b.txt", b"two"))]),
    upload("two files by two names", 422, ERROR, files=part() | {"more": ("b.txt", b"two")}),
    upload("empty", 422, ERROR, files=part(b"")),
    upload("blank", 422, ERROR, files=part(b" \n\t ")),
    upload("broken bytes", 422, ERROR, files=part("Größe 漢字 ".encode() * 20 + b"\xff\xfe\x80 end")),
    upload("of another alphabet in an encoding of its own", 422, ERROR, files=part("Привет, мир".encode("cp1251"))),
    upload("a program", 415, ERROR, files=part(b"\x7fELF" + bytes(60))),
    upload("a picture by its content", 415, ERROR, files=part(PNG)),
    upload("a PDF by its content", 415, ERROR, files=part(PDF)),
    upload("a PDF by its name", 415, ERROR, files=part(PDF, "a.pdf")),
    upload("Markdown", 415, ERROR, files=part(name="a.md")),
    upload("no ending", 415, ERROR, files=part(name="readme")),
    upload("an ending in the middle", 415, ERROR, files=part(name="a.txt.exe")),
    upload("a path for a name", 415, ERROR, files=part(name="../../etc/passwd")),
    upload("dots for a name", 422, ERROR, files=part(name="..")),
    details("of one's own", 200, FIRST | {"request_id": OBJECT | {"_id": "{request}"}, "_id": "{id}"}),
    details("unknown", 404, ERROR, str(uuid4())),
    details("of the document", 404, ERROR, "{request}"),
    details("malformed", 404, ERROR, "../../etc/passwd"),
    details("an ObjectId", 404, ERROR, "507f1f77bcf86cd799439011"),
    details("too long", 422, ERROR, "x" * 10_000),
    details("twice", 422, ERROR, ["{id}", "{id}"]),
    Case(f"GET {DETAILS}", "no id", 422, ERROR),
    Case(f"GET {ALL}", "none", 200, []),
    Case(
        f"GET {ALL}",
        "two, the newest first",
        200,
        [FIRST | {"_id": "{second}"}, FIRST | {"_id": "{first}"}],
        before=uploaded_twice,
    ),
    Case("GET /", "a program", 200, {"message": "Server is Working! ", "status": "OK"}),
    Case(
        "GET /",
        "a program that says so",
        200,
        {"message": "Server is Working! ", "status": "OK"},
        {"headers": {"accept": "application/json"}},
    ),
]


@pytest.mark.parametrize(("case", "slash"), both(CASES), ids=lambda each: each.id if isinstance(each, Case) else None)
async def test_each_row_is_as_the_table_says(at: Ours, case: Case, slash: bool) -> None:
    client, services = at
    await check(client, case, slash)
    if case.status >= 400 and UPLOAD in case.call:
        assert not any((await kept(services)).values())
        assert await blobs(services) == {}


async def test_a_browser_gets_the_console(at: Ours) -> None:
    client, _ = at
    answer = await client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.headers["content-type"].startswith("text/html")


async def blobs(services: Services) -> dict[str, bytes]:
    """Every kept file, by key."""
    found = {}
    async for each in services.blobs.list(until=later(now(), 60)):
        found[each.key] = b"".join([piece async for piece in services.blobs.get(each.key)])
    return found


async def test_the_file_lies_at_the_address_as_it_came(at: Ours) -> None:
    client, services = at
    data = TEXT.encode("utf-16")
    made = (await client.post(UPLOAD, files=part(data))).json()
    assert made["prompt"] == TEXT
    url = (await client.get(DETAILS, params={"id": made["_id"]})).json()["request_id"]["doc_url"]
    assert await asyncio.to_thread(Path(unquote(urlsplit(url).path)).read_bytes) == data
    document = await services.documents.get(
        services.accounts.who(None, "127.0.0.1"), from_uuid("doc", made["request_id"]) or ""
    )
    assert (document.sha256, document.size) == (hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        ("../../a.txt", "a.txt"),
        ("..\\..\\windows\\a.txt", "a.txt"),
        ("/etc/passwd.txt", "passwd.txt"),
        ("a\u202eb.txt", "ab.txt"),
        ("x" * 300 + ".txt", "x" * 196 + ".txt"),
        ("...txt", "...txt"),
        ("Größe 漢字 🦜.txt", "Größe 漢字 🦜.txt"),
        ("a'b;c=d%20.txt", "a'b;c=d%20.txt"),
    ],
)
async def test_a_name_is_only_shown_and_never_a_path(at: Ours, tmp_path: Path, sent: str, known: str) -> None:
    client, services = at
    made = (await client.post(UPLOAD, files=part(name=sent))).json()
    found = (await client.get(DETAILS, params={"id": made["_id"]})).json()["request_id"]
    assert found["doc_name"] == known
    assert list(await blobs(services)) == [f"documents/doc_{UUID(made['request_id']).hex}"]


@pytest.mark.parametrize(
    ("disposition", "status"),
    [
        (b"filename*=UTF-8''..%2F..%2Fetc%2Fpasswd.txt", 422),  # RFC 7578, 4.2: a form has no such name
        (b"filename=\"a.txt\"; filename*=UTF-8''..%2F..%2Fb.exe", 200),
        (b'filename="a\x00.txt"', 200),
        (b'filename="a.txt', 200),
        (b'filename="..\\..\\a.txt"', 200),
        (b"filename", 422),
    ],
)
async def test_headers_of_a_part_that_no_honest_client_sends(tmp_path: Path, disposition: bytes, status: int) -> None:
    async with serving(tmp_path) as (app, services):
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; ' + disposition + b"\r\n\r\n"
        body = head + TEXT.encode() + b"\r\n--edge--\r\n"
        headers = [("content-type", "multipart/form-data; boundary=edge")]
        answer = await ask(app, "POST", UPLOAD, headers=headers, body=body)
        assert answer.status == status, answer.body
        if status == 200:
            assert all(re.fullmatch(r"documents/doc_[0-9a-f]{32}", key) for key in await blobs(services))
            [document] = (await services.documents.page(services.accounts.who(None, "127.0.0.1"), limit=10)).items
            assert document.name.endswith(".txt")
            assert not set(document.name) & set("/\\\0")


async def test_a_file_over_the_limit_is_refused_in_the_familys_form(tmp_path: Path) -> None:
    limits = {"LOQUENT_MAX_UPLOAD": "10000", "LOQUENT_MAX_FILE_TEXT": "5000"}
    async with serving(tmp_path, **limits) as (app, services), client_of(app) as client:
        for data, word in (("x" * 20_000, "bytes"), ("a line of it\n" * 500, "characters")):
            answer = await client.post(UPLOAD, files=part(data))
            assert (answer.status_code, list(answer.json())) == (413, ["detail"])
            assert word in answer.json()["detail"]
        assert not any((await kept(services)).values())
        assert (await client.post(UPLOAD, files=part("a line of it\n" * 300))).status_code == 200


async def test_a_token_is_honoured_and_what_is_anothers_is_not_there(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as (app, services),
        client_of(app) as nobody,
        client_of(app, token_of(services, "ann")) as ann,
        client_of(app, token_of(services, "bob")) as bob,
    ):
        made = (await ann.post(UPLOAD, files=part())).json()
        assert made["user_id"] == "usr_ann"
        assert [each["_id"] for each in (await ann.get(ALL)).json()] == [made["_id"]]
        for other in (bob, nobody):
            assert (await other.get(ALL)).json() == []
            assert (await other.get(DETAILS, params={"id": made["_id"]})).status_code == 404
        refused = await nobody.get(ALL, headers={"authorization": "Bearer forged.forged.forged"})
        assert (refused.status_code, list(refused.json())) == (401, ["detail"])


async def test_where_nobody_is_served_without_a_login_this_family_is_not_either(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_ANONYMOUS="off") as (app, _), client_of(app) as client:
        for answer in (await client.post(UPLOAD, files=part()), await client.get(ALL)):
            assert (answer.status_code, list(answer.json())) == (401, ["detail"])


async def test_over_the_rate_nothing_is_kept_and_the_wait_is_told(tmp_path: Path) -> None:
    limit = {"LOQUENT_LIMIT_GENERATIONS": "1/minute"}
    async with serving(tmp_path, **limit) as (app, services), client_of(app) as client:
        assert (await client.post(UPLOAD, files=part())).status_code == 200
        over = await client.post(UPLOAD, files=part())
        assert (over.status_code, list(over.json())) == (429, ["detail"])
        assert 0 < int(over.headers["retry-after"]) <= 60
        assert (await kept(services))["documents"] == len(await blobs(services)) == 1


async def test_a_file_sent_again_with_its_key_is_one_document_and_one_answer(at: Ours) -> None:
    client, services = at
    key = {"idempotency-key": "the same"}
    first, again = [await client.post(UPLOAD, files=part(), headers=key) for _ in range(2)]
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    other = await client.post(UPLOAD, files=part("another text"), headers=key)
    assert (other.status_code, list(other.json())) == (422, ["detail"])
    found = await kept(services)
    assert (found["documents"], found["generations"], len(await blobs(services))) == (1, 1, 1)


async def test_a_file_sent_five_times_at_once_with_its_key_is_one_document_and_one_answer(at: Ours) -> None:
    client, services = at
    key = {"idempotency-key": "the same"}
    answers = await asyncio.gather(*(client.post(UPLOAD, files=part(), headers=key) for _ in range(5)))
    good = [each.json() for each in answers if each.status_code == 200]
    assert {each.status_code for each in answers} <= {200, 409}
    assert good
    assert all(each == good[0] for each in good)
    found = await kept(services)
    assert (found["documents"], found["generations"], len(await blobs(services))) == (1, 1, 1)


async def test_of_many_at_once_only_those_within_the_rate_are_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_LIMIT_GENERATIONS="5/minute") as (app, services), client_of(app) as client:
        answers = await asyncio.gather(*(client.post(UPLOAD, files=part()) for _ in range(12)))
        assert sorted(each.status_code for each in answers) == [200] * 5 + [429] * 7
        found = await kept(services)
        assert (found["documents"], found["generations"], len(await blobs(services))) == (5, 5, 5)


async def test_a_repeat_of_what_was_removed_is_the_answer_without_the_text(at: Ours) -> None:
    client, services = at
    key = {"idempotency-key": "the same"}
    first = (await client.post(UPLOAD, files=part(), headers=key)).json()
    assert (await client.delete(f"/api/v1/documents/{from_uuid('doc', first['request_id'])}")).status_code == 204
    again = await client.post(UPLOAD, files=part(), headers=key)
    assert (again.status_code, again.json()) == (200, first | {"prompt": ""})
    assert again.headers["idempotent-replayed"] == "true"
    assert (await kept(services))["documents"] == 0


async def test_the_list_has_the_newest_of_every_surface(at: Ours) -> None:
    client, services = at
    who = services.accounts.who(None, "127.0.0.1")
    await uploaded(client)
    [document] = (await services.documents.page(who, limit=1)).items
    for _ in range(4):
        begun = await services.documents.ask(who, document.id, Question(), surface="api")
        await services.generations.collect(begun)
    listed = (await client.get(ALL)).json()
    newest = [each.id for each in (await services.generations.page(who, Filters(kind="document"), limit=100)).items]
    assert [from_uuid("gen", each["_id"]) for each in listed] == newest
    assert len(newest) == 5
    assert [each.generation.id async for each in services.documents.answers(who, most=3)] == newest[:3]


async def test_an_answer_outlives_its_document_and_says_so(at: Ours) -> None:
    client, _ = at
    known = await uploaded(client)
    id = from_uuid("doc", known["request"])
    assert (await client.delete(f"/api/v1/documents/{id}")).status_code == 204
    found = (await client.get(DETAILS, params={"id": known["id"]})).json()
    assert (found["prompt"], found["request_id"]["is_valid"], found["request_id"]["doc_url"]) == ("", False, "")
    assert found["ml_response"]["modelResponse"]


# With a remote engine


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with generator_server() as found:
        yield found


@pytest.fixture
async def remote(tmp_path: Path, generator: Generator) -> AsyncIterator[Ours]:
    generator.asked.clear()
    async with (
        serving(tmp_path, ML_URL=generator.url) as (app, services),
        client_of(app, token_of(services, "ann")) as client,
    ):
        yield client, services


async def test_the_remote_engine_is_given_the_text_of_the_file(remote: Ours, generator: Generator) -> None:
    client, _ = remote
    made = (await client.post(UPLOAD, files=part("one two three"))).json()
    assert made["ml_response"] == {"modelResponse": "three two one", "isSuccess": True}
    assert (generator.asked, generator.paths[-1]) == ([{"prompt": "one two three"}], "/generateContent")


@pytest.mark.parametrize(
    ("mark", "status", "code"),
    [
        ("[status 400]", 400, "invalid"),
        ("[status 401]", 401, "engine_failed"),
        ("[status 404]", 404, "invalid"),
        ("[status 418]", 418, "engine_failed"),
        ("[status 429]", 429, "engine_busy"),
        ("[status 500]", 500, "unavailable"),
        ("[status 503]", 503, "unavailable"),
        ("[status 504]", 504, "unavailable"),
        ("[status 302]", 502, "engine_failed"),
        ("[false]", 502, "engine_failed"),
        ("[broken 1]", 502, "engine_failed"),
    ],
)
async def test_what_the_engine_answers_is_told_and_nothing_is_lost(
    remote: Ours, mark: str, status: int, code: str
) -> None:
    client, services = remote
    answer = await client.post(UPLOAD, files=part(f"a secret text {mark}"))
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert "secret" not in answer.text
    wait = "7" if status in (429, 503) else "1" if code == "unavailable" else None  # 7 is the engine's own word
    assert answer.headers.get("retry-after") == wait
    await check_kept(client, services, code)


async def check_kept(client: httpx2.AsyncClient, services: Services, code: str) -> None:
    """The document is there, and its answer in the history as failed, with the reason."""
    [document] = (await services.documents.page(ANN, limit=10)).items
    [found] = (await client.get("/api/v1/generations", params={"kind": "document"})).json()["data"]
    assert (found["status"], found["error"]["code"], found["surface"]) == ("failed", code, "documents")
    original = await client.get(f"/api/v1/documents/{document.id}/original")
    assert hashlib.sha256(original.content).hexdigest() == document.sha256
    [listed] = (await client.get(ALL)).json()
    assert (listed["isSuccess"], listed["ml_response"]["isSuccess"]) == (False, False)


async def test_an_engine_that_is_not_there_is_a_bad_gateway(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        async with (
            serving(tmp_path, ML_URL=url) as (app, services),
            client_of(app, token_of(services, "ann")) as client,
        ):
            answer = await client.post(UPLOAD, files=part())
            assert (answer.status_code, list(answer.json())) == (502, ["detail"])
            await check_kept(client, services, "unavailable")


async def test_an_engine_that_is_slow_is_a_timeout_of_408(tmp_path: Path, generator: Generator) -> None:
    rows = tmp_path / "slow.toml"
    row = {"name": '"ml"', "engine": '"http_text"', "id": '"ml"', "abilities": '["text"]', "timeout": "0.2"}
    row["url"] = f'"{generator.url}"'
    await asyncio.to_thread(rows.write_text, "[[model]]\n" + "\n".join(f"{name} = {is_}" for name, is_ in row.items()))
    own = {"ML_URL": generator.url, "LOQUENT_MODELS": str(rows)}
    async with serving(tmp_path, **own) as (app, services), client_of(app, token_of(services, "ann")) as client:
        answer = await client.post(UPLOAD, files=part("[slow 1]"))
        assert (answer.status_code, list(answer.json())) == (408, ["detail"])
        await check_kept(client, services, "engine_timeout")


async def test_who_hangs_up_ends_the_work_and_what_was_sent_is_kept(tmp_path: Path, generator: Generator) -> None:
    async with serving(tmp_path, ML_URL=generator.url) as (app, services):
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        body = head + b"[slow 5] text\r\n--edge--\r\n"
        headers = [("content-type", "multipart/form-data; boundary=edge")]
        async with asyncio.timeout(4):
            await ask(app, "POST", UPLOAD, headers=headers, body=body, leaves=True)
        assert not services.runner.lives
        who = services.accounts.who(None, "127.0.0.1")
        [found] = (await services.generations.page(who, Filters(kind="document"), limit=10)).items
        assert found.status == "cancelled"
        assert len(await blobs(services)) == 1
