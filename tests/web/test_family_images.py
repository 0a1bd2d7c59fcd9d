"""The images family's table, row by row, and what stands behind it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
import time_machine
from families import Case, both, check

from asking import JSON, ask, client_of, kept, serving
from built import ROWS
from loquent.domain.evolve import evolve
from loquent.domain.images import PROMPT, Image
from loquent.domain.users import User
from loquent.ports.store import Replace
from loquent.web.app import create_app
from loquent.wiring import Services
from samples import pictures
from scripted import Caller, listening

pytestmark = pytest.mark.anyio

REGISTER, LOGIN, UPLOAD, HISTORY = "/auth/register", "/auth/login", "/upload/image", "/upload/history"
NOON = "2026-01-31T12:00:00Z"
CAROL = {"username": "carol", "email": "carol@example.org", "password": "a long enough one"}
WHO = {"username": "carol", "password": "a long enough one"}
PNG, JPEG = pictures.plain("PNG"), pictures.plain("JPEG")
JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        yield client, services


async def registered(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """Carol has an account, and a token."""
    answer = await client.post(REGISTER, json=CAROL)
    return {"token": answer.json()["result"]["access_token"]}


async def answered(client: httpx2.AsyncClient) -> Mapping[str, Any]:
    """She has had two images answered."""
    known = await registered(client)
    for name in ("first.png", "second.png"):
        assert (await client.post(UPLOAD, files={"file": (name, PNG)}, headers=bearer(known))).status_code == 200
    return known


def bearer(known: Mapping[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {known['token']}"}


def token(status: int) -> dict[str, Any]:
    return {"status": status, "result": {"access_token": JWT, "token_type": "bearer"}}


def result(name: str = "a.png", said: Any = PROMPT) -> dict[str, Any]:
    return {
        "user_id": re.compile(r"usr_[0-9a-f]{32}"),
        "username": "carol",
        "image_name": name,
        "model_result": said,
        "created_at": "31/01/2026 12:00:00",
    }


def register_case(name: str, status: int, shape: Any, before: Any = None, **body: Any) -> Case:
    sent = {name: value for name, value in {**CAROL, **body}.items() if value is not ...}
    return Case(f"POST {REGISTER}", name, status, shape, {"json": sent}, **({"before": before} if before else {}))


def login_case(name: str, status: int, shape: Any, **body: Any) -> Case:
    sent = {name: value for name, value in {**WHO, **body}.items() if value is not ...}
    return Case(f"POST {LOGIN}", name, status, shape, {"json": sent}, before=registered)


def upload_case(name: str, status: int, shape: Any, files: Any) -> Case:
    headers = {"authorization": "Bearer {token}"}
    return Case(f"POST {UPLOAD}", name, status, shape, {"files": files, "headers": headers}, before=registered)


def stranger_case(call: str, name: str, **ask: Any) -> Case:
    return Case(call, name, 401, NOBODY, ask, before=registered, headers={"www-authenticate": "Bearer"})


def named(field: str) -> dict[str, Any]:
    return {"detail": re.compile(f"(?s){field}.*")}


ERROR = {"detail": str}
NOBODY = {"detail": "Could not validate user."}
WRONG = {"detail": "Incorrect username or password"}
VALUES = (None, 7, ["text"])
STRANGERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("no token", {}),
    ("nonsense", {"authorization": "Bearer x.y.z"}),
    ("empty", {"authorization": "Bearer "}),
    ("another scheme", {"authorization": "Basic {token}"}),
    ("cut", {"authorization": "Bearer {token}x"}),
    ("unsigned", {"authorization": "Bearer " + jwt.encode({"sub": "carol"}, "", "none")}),
)
NAMES = (
    ("../../etc/passwd", "passwd"),
    ("..\\..\\windows\\a.png", "a.png"),
    ("/a.png", "a.png"),
    ("räksmörgås.png", "räksmörgås.png"),
    ("a\u202egnp.png", "agnp.png"),
    ("x" * 300 + ".png", "x" * 196 + ".png"),
    ("no ending", "no ending"),
)
BAD = (
    ("a text", ("a.png", b"text"), 415, "the file is no picture"),
    ("a PNG that says text", ("a.txt", PNG), 415, "the file is named .txt but is a PNG"),
    ("SVG", ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 415, "the file is an SVG drawing"),
    ("TIFF", ("a.png", pictures.plain("TIFF")), 415, "the file is a TIFF image"),
    ("a page too", ("a.png", PNG + b"<script>"), 415, "the file is a PNG picture and a web page or a script at once"),
    ("an archive too", ("a.png", pictures.with_archive(PNG)), 415, "the file is a PNG picture and an archive at once"),
    ("cut in the middle", ("a.jpg", JPEG[: len(JPEG) // 2]), 422, "the picture is broken or cut off"),
    ("a bomb", ("a.png", pictures.bomb(1_100)), 413, "the picture has too many pixels"),
    ("a huge claim", ("a.png", pictures.png(2**31 - 1, 2**31 - 1, b"")), 413, "the picture has too many pixels"),
    ("10,000 frames", ("a.gif", pictures.many_frames(10_000)), 413, "the picture has 10,000 frames"),
    ("too long", ("a.png", PNG + bytes(300_000)), 413, "the body is over"),
    ("only dots", ("...", PNG), 422, "the form's file has no name"),
)

CASES = [
    register_case("new", 201, token(201)),
    register_case("the name is taken", 400, {"detail": "Username already registered"}, registered, email="c@d.org"),
    register_case("the email is taken", 400, {"detail": "Email already registered"}, registered, username="dora"),
    register_case("both are taken", 400, {"detail": re.compile("(Username|Email) already registered")}, registered),
    register_case("a slash in the name", 422, named("a username"), username="a/b"),
    register_case("blank name", 422, ERROR, username=" "),
    register_case("empty name", 422, named("username"), username=""),
    register_case("a long name", 422, named("username"), username="x" * 65),
    register_case("a short password", 422, named("password"), password="short"),
    register_case("no email at all", 422, named("this is not an email"), email="nobody"),
    register_case("an extra field", 422, named("is_admin"), is_admin=True),
    *(register_case(f"no {field}", 422, named(field), **{field: ...}) for field in CAROL),
    *(register_case(f"{f} {v!r}", 422, named(f), **{f: v}) for f in CAROL for v in VALUES),
    login_case("right", 200, token(200)),
    login_case("wrong password", 400, WRONG, password="another one"),
    login_case("wrong name", 400, WRONG, username="Carol"),
    login_case("empty password", 400, WRONG, password=""),
    login_case("an extra field", 422, named("email"), email="carol@example.org"),
    *(login_case(f"no {field}", 422, named(field), **{field: ...}) for field in WHO),
    *(login_case(f"{f} {v!r}", 422, named(f), **{f: v}) for f in WHO for v in VALUES),
    upload_case("answered", 200, {"status": 200, "result": result()}, {"file": ("a.png", PNG, "image/png")}),
    upload_case("any content type", 200, {"status": 200, "result": result()}, {"file": ("a.png", PNG, "text/html")}),
    upload_case("an empty file", 422, {"detail": "the file is empty"}, {"file": ("a.png", b"")}),
    upload_case("mislabelled", 415, named("the file is named .png but is a JPEG"), {"file": ("a.png", JPEG)}),
    upload_case("two files", 422, named("file stands twice"), [("file", ("a.png", PNG)), ("file", ("b.png", PNG))]),
    upload_case("another field", 422, named("file"), {"picture": ("a.png", PNG)}),
    *(stranger_case(f"POST {UPLOAD}", n, files={"file": ("a.png", PNG)}, headers=h) for n, h in STRANGERS),
    Case(
        f"GET {HISTORY}",
        "empty",
        200,
        {"status": 200, "result": []},
        {"headers": {"authorization": "Bearer {token}"}},
        before=registered,
    ),
    Case(
        f"GET {HISTORY}",
        "newest first",
        200,
        {"status": 200, "result": [result("second.png"), result("first.png")]},
        {"headers": {"authorization": "Bearer {token}"}},
        before=answered,
    ),
    *(stranger_case(f"GET {HISTORY}", name, headers=headers) for name, headers in STRANGERS),
]
LIMITS = {"LOQUENT_MAX_UPLOAD": "250000", "LOQUENT_MAX_PIXELS": "1000000"}


@pytest.mark.parametrize(("case", "slash"), both(CASES), ids=[f"{each.id} {slash}"[:70] for each, slash in both(CASES)])
async def test_each_row_of_the_table_in_both_spellings(tmp_path: Path, case: Case, slash: bool) -> None:
    async with serving(tmp_path, works=False, **LIMITS) as (app, services), client_of(app) as client:
        with time_machine.travel(NOON, tick=False):
            answer = await check(client, case, slash)
            assert answer.headers["content-type"] == "application/json"
        if case.status >= 400:
            await nothing_is_kept(services, tmp_path)


async def nothing_is_kept(services: Services, folder: Path) -> None:
    found = await kept(services)
    assert (found["images"], found["generations"]) == (0, 0)
    assert list((folder / "data" / "blobs").glob("images/*/*")) == []


async def test_a_bad_file_is_refused_with_the_reason_and_nothing_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, **LIMITS) as (app, services), client_of(app) as client:
        headers = bearer(await registered(client))
        for name, file, status, said in BAD:
            answer = await client.post(UPLOAD, files={"file": file}, headers=headers)
            assert (answer.status_code, list(answer.json())) == (status, ["detail"]), name
            assert answer.json()["detail"].startswith(said), name
        await nothing_is_kept(services, tmp_path)


async def test_a_name_is_shown_without_folders_and_signs_and_never_a_path(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False, **LIMITS) as (app, _), client_of(app) as client:
        headers = bearer(await registered(client))
        for name, shown in NAMES:
            answer = await client.post(UPLOAD, files={"file": (name, PNG)}, headers=headers)
            assert (answer.status_code, answer.json()["result"]["image_name"]) == (200, shown), answer.text
        blobs = [each for each in (tmp_path / "data" / "blobs").rglob("*") if each.is_file()]
        assert len(blobs) == len(NAMES)
        assert all(re.fullmatch(r"img_[0-9a-f]{32}", each.name) for each in blobs)


# What the words around the table say


async def test_a_token_is_good_for_twenty_minutes(at: Ours) -> None:
    client, _ = at
    with time_machine.travel(NOON, tick=False) as clock:
        await registered(client)
        known = {"token": (await client.post(LOGIN, json=WHO)).json()["result"]["access_token"]}
        clock.shift(20 * 60 - 1)
        assert (await client.get(HISTORY, headers=bearer(known))).status_code == 200
        clock.shift(1)
        late = await client.get(HISTORY, headers=bearer(known))
        assert (late.status_code, late.json()) == (401, NOBODY)
        elsewhere = await client.get("/api/v1/users/me", headers=bearer(known))
        assert elsewhere.status_code == 401, "it has expired on every surface"


async def test_a_token_says_who_it_is_in_the_familys_own_claims(at: Ours) -> None:
    client, services = at
    known = await registered(client)
    claims = jwt.decode(known["token"], options={"verify_signature": False})
    user = await services.store.find(User, "username", {"tenant": "default", "username": "carol"})
    assert user is not None
    assert (claims["sub"], claims["user_id"], claims["exp"] - claims["iat"]) == ("carol", user.id, 1200)
    assert jwt.get_unverified_header(known["token"])["alg"] == "HS256"


async def test_tokens_of_one_surface_are_good_on_all(at: Ours) -> None:
    client, _ = at
    known = await registered(client)
    assert (await client.get("/api/v1/users/me", headers=bearer(known))).json()["username"] == "carol"
    assert (await client.get("/text_generations", headers=bearer(known))).status_code == 200
    for path in ("/api/v1/token", "/token"):
        theirs = (await client.post(path, data=WHO)).json()["access_token"]
        sent = await client.post(UPLOAD, files={"file": ("a.png", PNG)}, headers=bearer({"token": theirs}))
        assert (sent.status_code, sent.json()["result"]["username"]) == (200, "carol")


async def test_an_account_that_is_not_active_does_not_log_in(at: Ours) -> None:
    client, services = at
    await registered(client)
    user = await services.store.find(User, "username", {"tenant": "default", "username": "carol"})
    assert user is not None
    await services.store.write(Replace(user, evolve(user, is_active=False)))
    answer = await client.post(LOGIN, json=WHO)
    assert (answer.status_code, answer.json()) == (400, WRONG)


@pytest.mark.parametrize(("path", "body"), [(REGISTER, CAROL), (LOGIN, WHO)])
async def test_attempts_are_limited_as_everywhere(tmp_path: Path, path: str, body: dict[str, str]) -> None:
    async with serving(tmp_path, works=False, LOQUENT_LIMIT_LOGINS="2/minute") as (app, _), client_of(app) as client:
        with time_machine.travel(NOON, tick=False) as clock:
            for _ in range(2):
                assert (await client.post(path, json=body)).status_code < 429
            refused = await client.post(path, json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
            assert set(refused.json()) == {"detail"}
            native = await client.post("/api/v1/users" if path == REGISTER else "/api/v1/token", **native_of(path))
            assert native.status_code == 429, "one count for all surfaces"
            clock.shift(60)
            assert (await client.post(path, json=body)).status_code < 429


def native_of(path: str) -> dict[str, Any]:
    return {"json": {**WHO, "username": "dora"}} if path == REGISTER else {"data": WHO}


@pytest.mark.parametrize(("x", "said"), [("1", True), ("0.73", True), ("true", True), ("0", False)])
async def test_a_predictors_answer_is_a_boolean(tmp_path: Path, x: str, said: bool) -> None:
    async def predict(caller: Caller) -> None:
        await caller.answer(b'{"prediction": [[%s]]}' % x.encode())

    async with listening(predict) as (url, upstream):  # noqa: SIM117 - the second wants the first's address
        async with serving(tmp_path, IMAGE_MODEL_URL=f"{url}/predict") as (app, _), client_of(app) as client:
            with time_machine.travel(NOON, tick=False):
                known = await registered(client)
                sent = await client.post(UPLOAD, files={"file": ("a.jpg", JPEG)}, headers=bearer(known))
                assert sent.json()["result"]["model_result"] is said
                listed = (await client.get(HISTORY, headers=bearer(known))).json()["result"]
                assert listed == [sent.json()["result"]]
    assert upstream.seen[0].line == "POST /predict HTTP/1.1"
    assert set(upstream.seen[0].body) == {"image"}


async def test_a_predictor_that_fails_is_told_and_the_image_is_there(tmp_path: Path) -> None:
    async def fail(caller: Caller) -> None:
        await caller.answer(b"{}", 500)

    async with listening(fail) as (url, _):  # noqa: SIM117 - the same
        async with serving(tmp_path, IMAGE_MODEL_URL=url) as (app, services), client_of(app) as client:
            known = await registered(client)
            sent = await client.post(UPLOAD, files={"file": ("a.jpg", JPEG)}, headers=bearer(known))
            assert (sent.status_code, set(sent.json())) == (503, {"detail"})
            assert (await client.get(HISTORY, headers=bearer(known))).json()["result"] == []
            native = (await client.get("/api/v1/generations", headers=bearer(known))).json()["data"]
            assert [(each["kind"], each["status"], each["surface"]) for each in native] == [
                ("image", "failed", "images")
            ]
            assert (await kept(services))["images"] == 1


async def test_without_an_image_model_the_settings_are_named_and_nothing_is_kept(tmp_path: Path) -> None:
    rows = tmp_path / "blind.toml"
    rows.write_text(ROWS.replace('["vision"]', '["text"]'))
    async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, services), client_of(app) as client:
        known = await registered(client)
        sent = await client.post(UPLOAD, files={"file": ("a.png", PNG)}, headers=bearer(known))
        assert sent.status_code == 503
        assert "LOQUENT_IMAGE_MODEL or IMAGE_MODEL_URL" in sent.json()["detail"]
        assert (await kept(services))["images"] == 0


async def test_what_came_in_here_is_in_the_history_of_all_surfaces_and_of_nobody_else(at: Ours) -> None:
    client, _ = at
    known = await answered(client)
    native = (await client.get("/api/v1/history", headers=bearer(known))).json()["data"]
    assert [(each["kind"], each["surface"]) for each in native] == [("image", "images")] * 2
    images = (await client.get("/api/v1/images", headers=bearer(known))).json()["data"]
    assert [each["name"] for each in images] == ["second.png", "first.png"]
    answer = await client.post(f"/api/v1/images/{images[0]['id']}/generations", json={}, headers=bearer(known))
    assert answer.status_code == 200
    listed = (await client.get(HISTORY, headers=bearer(known))).json()["result"]
    assert [each["image_name"] for each in listed] == ["second.png", "second.png", "first.png"]
    dora = await client.post(REGISTER, json={**CAROL, "username": "dora", "email": "dora@example.org"})
    hers = bearer({"token": dora.json()["result"]["access_token"]})
    assert (await client.get(HISTORY, headers=hers)).json()["result"] == []


async def test_an_upload_that_is_repeated_with_its_key_is_answered_once(at: Ours) -> None:
    client, services = at
    known = await registered(client)
    headers = {**bearer(known), "idempotency-key": "the same"}
    answers = [await client.post(UPLOAD, files={"file": ("a.png", PNG)}, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotent-replayed"] == "true"
    found = await kept(services)
    assert (found["images"], found["generations"]) == (1, 1)
    other = await client.post(UPLOAD, files={"file": ("a.png", JPEG[:100])}, headers=headers)
    assert other.status_code == 422


async def test_an_upload_that_comes_five_times_at_once_with_its_key_is_one_image(at: Ours) -> None:
    client, services = at
    headers = {**bearer(await registered(client)), "idempotency-key": "the same"}
    asks = [client.post(UPLOAD, files={"file": ("a.png", PNG)}, headers=headers) for _ in range(5)]
    answers = await asyncio.gather(*asks)
    assert {200} <= {each.status_code for each in answers} <= {200, 409}
    found = await kept(services)
    assert (found["images"], found["generations"]) == (1, 1)


async def test_of_many_at_once_only_those_within_the_rate_are_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_LIMIT_GENERATIONS="5/minute") as (app, services), client_of(app) as client:
        headers = bearer(await registered(client))
        asks = [client.post(UPLOAD, files={"file": ("a.png", PNG)}, headers=headers) for _ in range(12)]
        assert sorted(each.status_code for each in await asyncio.gather(*asks)) == [200] * 5 + [429] * 7
        found = await kept(services)
        assert (found["images"], found["generations"]) == (5, 5)


async def test_an_upload_is_repeated_with_its_key_also_where_the_image_was_removed(at: Ours) -> None:
    client, services = at
    known = await registered(client)
    headers = {**bearer(known), "idempotency-key": "the same"}
    first = await client.post(UPLOAD, files={"file": ("a.png", PNG)}, headers=headers)
    [image] = (await services.store.page(Image, "all", {}, limit=9)).items
    assert (await client.delete(f"/api/v1/images/{image.id}", headers=bearer(known))).status_code == 204
    again = await client.post(UPLOAD, files={"file": ("a.png", PNG)}, headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    assert (await kept(services))["images"] == 0


async def test_what_is_kept_of_an_image_has_no_metadata(at: Ours) -> None:
    client, services = at
    known = await registered(client)
    sent = await client.post(UPLOAD, files={"file": ("a.jpg", pictures.talkative("JPEG", 6))}, headers=bearer(known))
    assert sent.status_code == 200
    image = (await services.store.page(Image, "all", {}, limit=1)).items[0]
    data = b"".join([piece async for piece in services.blobs.get(image.blob)])
    assert pictures.SECRET not in data
    assert (image.width, image.height, image.size) == (40, 60, len(data))


async def test_a_name_in_another_encoding_and_with_nul_is_only_shown(at: Ours) -> None:
    client, _ = at
    known = await registered(client)
    for head, name in (
        (b"filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        (b'filename="a\\"b.png"', 'a"b.png'),
        (b'filename="a%00b.png"', "a%00b.png"),
    ):
        body = (
            b'--edge\r\nContent-Disposition: form-data; name="file"; ' + head + b"\r\n\r\n" + PNG + b"\r\n--edge--\r\n"
        )
        headers = [("content-type", "multipart/form-data; boundary=edge"), *bearer(known).items()]
        sent = await client.post(UPLOAD, content=body, headers=dict(headers))
        assert sent.status_code in (200, 422), sent.text
        if sent.status_code == 200:
            assert sent.json()["result"]["image_name"] == name


async def test_who_is_not_known_is_told_so_before_the_file_is_looked_at(at: Ours) -> None:
    _, services = at
    answer = await ask(create_app(services), "POST", UPLOAD, headers=[JSON], body=[b"{"], ends=False)
    assert (answer.status, json.loads(answer.body)) == (401, NOBODY)
