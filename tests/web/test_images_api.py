"""Images over our own API: upload, list, ask, download, erase."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import client_of, kept, serving, token_of
from loquent.domain.images import PROMPT
from loquent.wiring import Services
from samples import pictures
from scripted import Caller, listening

pytestmark = pytest.mark.anyio

IMAGES = "/api/v1/images"
PNG = pictures.plain("PNG")
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
        yield client, services


async def put(client: httpx2.AsyncClient, name: str = "a.png", data: bytes = PNG, **headers: str) -> dict[str, Any]:
    answer = await client.post(IMAGES, files={"file": (name, data)}, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{IMAGES}/{answer.json()['id']}"
    made: dict[str, Any] = answer.json()
    return made


def blobs(services: Services) -> list[Path]:
    return [each for each in (services.settings.data_dir / "blobs").rglob("*") if each.is_file()]


async def test_an_image_is_kept_clean_and_given_back_as_an_attachment(at: Ours) -> None:
    client, _ = at
    made = await put(client, "my photo\u00e9.jpg", pictures.talkative("JPEG", 6))
    assert {name: made[name] for name in ("object", "name", "kind", "media_type", "width", "height", "surface")} == {
        "object": "image",
        "name": "my photo\u00e9.jpg",
        "kind": "jpeg",
        "media_type": "image/jpeg",
        "width": 40,
        "height": 60,
        "surface": "api",
    }
    assert (await client.get(f"{IMAGES}/{made['id']}")).json() == made
    answer = await client.get(f"{IMAGES}/{made['id']}/original")
    assert answer.headers["content-disposition"].startswith('attachment; filename="my photo_.jpg"')
    assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == ("image/jpeg", "nosniff")
    assert int(answer.headers["content-length"]) == made["size"] == len(answer.content)
    assert pictures.SECRET not in answer.content


async def test_they_are_listed_by_page_newest_first(at: Ours) -> None:
    client, _ = at
    ids = [(await put(client, f"{n}.png"))["id"] for n in range(3)][::-1]
    first = (await client.get(IMAGES, params={"limit": 2})).json()
    assert [each["id"] for each in first["data"]] == ids[:2]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[1], True)
    rest = (await client.get(IMAGES, params={"limit": 2, "after": ids[1]})).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (ids[2:], False)


async def test_asked_what_is_in_it(at: Ours) -> None:
    client, _ = at
    id = (await put(client))["id"]
    answer = (await client.post(f"{IMAGES}/{id}/generations", json={"prompt": "What colour is it?"})).json()
    assert (answer["kind"], answer["status"], answer["model"]) == ("image", "completed", "seer")
    assert answer["input"] == {"image": id, "name": "a.png", "prompt": "What colour is it?"}
    assert answer["answer"] == answer["output"] == "What colour is it?"
    plain = (await client.post(f"{IMAGES}/{id}/generations", json={})).json()
    assert plain["input"]["prompt"] == PROMPT
    listed = (await client.get("/api/v1/generations", params={"kind": "image"})).json()["data"]
    assert [each["id"] for each in listed] == [plain["id"], answer["id"]]


async def test_asked_as_a_stream_and_as_a_job(at: Ours) -> None:
    client, _ = at
    id = (await put(client))["id"]
    streamed = await client.post(f"{IMAGES}/{id}/generations", json={"prompt": "one two", "stream": True})
    events = [block.split("\n") for block in streamed.text.strip().split("\n\n")]
    assert [lines[1] for lines in events] == ["event: delta", "event: delta", "event: done"]
    assert json.loads(events[-1][2].removeprefix("data: "))["answer"] == "one two"
    job = await client.post(f"{IMAGES}/{id}/generations", json={"prompt": "three", "background": True})
    assert (job.status_code, job.json()["status"], job.json()["answer"]) == (202, "pending", None)
    async with asyncio.timeout(10):
        while (found := (await client.get(job.headers["location"])).json())["status"] != "completed":
            await asyncio.sleep(0.02)
    assert found["output"] == "three"


@pytest.mark.parametrize("x", ["1", "0"])
async def test_a_boolean_is_a_boolean_here_too(tmp_path: Path, x: str) -> None:
    async def predict(caller: Caller) -> None:
        await caller.answer(b'{"prediction": [[%s]]}' % x.encode())

    async with listening(predict) as (url, _):  # noqa: SIM117 - the second wants the first's address
        async with serving(tmp_path, IMAGE_MODEL_URL=url) as (app, _), client_of(app) as client:
            id = (await put(client))["id"]
            answer = (await client.post(f"{IMAGES}/{id}/generations", json={})).json()
            assert (answer["model"], answer["output"]) == ("image-predictor", "true" if x == "1" else "false")
            assert answer["answer"] is (x == "1")
            seen = (await client.post(f"{IMAGES}/{id}/generations", json={"prompt": "hi", "model": "seer"})).json()
            assert seen["answer"] == "hi", "a named model goes before the deployment's own"


async def test_a_model_that_sees_nothing_is_refused(at: Ours) -> None:
    client, _ = at
    id = (await put(client))["id"]
    for model, status in (("echo", 422), ("nobody", 404)):
        answer = await client.post(f"{IMAGES}/{id}/generations", json={"model": model})
        assert answer.status_code == status


async def test_erasing_takes_the_blob_and_leaves_the_answers(at: Ours) -> None:
    client, services = at
    id = (await put(client))["id"]
    asked = (await client.post(f"{IMAGES}/{id}/generations", json={})).json()["id"]
    assert len(blobs(services)) == 1
    assert (await client.delete(f"{IMAGES}/{id}")).status_code == 204
    assert blobs(services) == []
    for path in (f"{IMAGES}/{id}", f"{IMAGES}/{id}/original"):
        assert (await client.get(path)).status_code == 404
    assert (await client.delete(f"{IMAGES}/{id}")).status_code == 404
    assert (await client.post(f"{IMAGES}/{id}/generations", json={})).status_code == 404
    assert (await client.get(f"/api/v1/generations/{asked}")).status_code == 200


async def test_a_job_about_an_image_that_is_gone_fails_with_the_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, works=False) as (app, services), client_of(app) as client:
        id = (await put(client))["id"]
        job = (await client.post(f"{IMAGES}/{id}/generations", json={"background": True})).json()["id"]
        await client.delete(f"{IMAGES}/{id}")
        await services.worker.open(alone=True)
        async with asyncio.timeout(10):
            while (found := (await client.get(f"/api/v1/generations/{job}")).json())["status"] == "pending":
                await asyncio.sleep(0.02)
            while found["status"] == "processing":
                found = (await client.get(f"/api/v1/generations/{job}")).json()
        assert (found["status"], found["error"]["message"]) == ("failed", "the image has been removed")


async def test_an_upload_that_is_repeated_with_its_key_is_kept_once(at: Ours) -> None:
    client, services = at
    made = [await put(client, **{"idempotency-key": "the same"}) for _ in range(2)]
    assert made[0] == made[1]
    both = await asyncio.gather(
        *(put(client, **{"idempotency-key": "at once"}) for _ in range(2)), return_exceptions=True
    )
    assert any(isinstance(each, dict) for each in both)
    assert (await kept(services))["images"] == len(blobs(services)) == 2
    other = await client.post(IMAGES, files={"file": ("b.png", PNG)}, headers={"idempotency-key": "the same"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize(
    ("name", "data", "status", "said"),
    [
        ("a.png", b"", 422, "empty"),
        ("a.txt", PNG, 415, "named .txt but is a PNG"),
        ("a.svg", b"<svg/>", 415, "SVG"),
        ("a.gif", pictures.many_frames(10_000), 413, "10,000 frames"),
        ("a.png", pictures.bomb(1_100), 413, "pixels"),
        ("...", PNG, 422, "no name"),
    ],
)
async def test_what_is_no_picture_is_refused_and_nothing_is_kept(
    tmp_path: Path, name: str, data: bytes, status: int, said: str
) -> None:
    async with serving(tmp_path, LOQUENT_MAX_PIXELS="1000000") as (app, services), client_of(app) as client:
        answer = await client.post(IMAGES, files={"file": (name, data)})
        assert (answer.status_code, answer.json()["field"]) == (status, "file")
        assert said in answer.json()["detail"]
        assert (await kept(services))["images"] == 0
        assert blobs(services) == []


async def test_uploads_are_limited_as_generations_are(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_LIMIT_GENERATIONS="2/minute") as (app, services), client_of(app) as client:
        await put(client)
        await put(client)
        refused = await client.post(IMAGES, files={"file": ("a.png", PNG)})
        assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")
        assert (await kept(services))["images"] == 2


async def test_a_vision_model_behind_openais_api_is_shown_the_picture(tmp_path: Path) -> None:
    async def see(caller: Caller) -> None:
        said = {"choices": [{"message": {"content": "a red and a blue half"}, "finish_reason": "stop"}], "model": "v"}
        await caller.answer(json.dumps(said).encode())

    async with listening(see) as (url, upstream):
        rows = tmp_path / "vision.toml"
        row = (
            f'[[model]]\nname = "eyes"\nengine = "openai"\nid = "v"\nabilities = ["chat", "vision"]\nurl = "{url}/v1"\n'
        )
        rows.write_text(row)
        environ = {"LOQUENT_MODELS": str(rows), "LOQUENT_IMAGE_MODEL": "eyes"}
        async with serving(tmp_path, **environ) as (app, _), client_of(app) as client:
            id = (await put(client))["id"]
            answer = (await client.post(f"{IMAGES}/{id}/generations", json={"prompt": "What is it?"})).json()
            assert answer["answer"] == "a red and a blue half"
            kept_one = (await client.get(f"{IMAGES}/{id}/original")).content
    parts = upstream.seen[0].body["messages"][0]["content"]
    assert parts[0] == {"type": "text", "text": "What is it?"}
    assert parts[1]["image_url"]["url"] == f"data:image/png;base64,{pictures.base64_of(kept_one)}"
