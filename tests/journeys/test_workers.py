"""Several server processes on one port: one dies and nobody notices, all of them stop with their parent."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from journeys.processes import end_of, is_up, start

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(180)]
OURS = "/api/v1/generations"


class Several:
    """A parent and its servers, on one folder and one SQLite file."""

    def __init__(self, folder: Path, port: int, **environ: str) -> None:
        self.address = f"http://127.0.0.1:{port}"
        quick = {"LOQUENT_PORT": str(port), "LOQUENT_LEASE_SECONDS": "2", "LOQUENT_SWEEP_SECONDS": "0.2"}
        self.process = start(folder, "serve --workers 2", **quick, **environ)
        self._log = folder / "serve --workers 2.log"

    @property
    def servers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def said(self, word: str) -> list[str]:
        """The lines with that word in them."""
        return [line for line in self._log.read_text().splitlines() if f'"{word}"' in line]

    async def until_serving(self, count: int) -> None:
        assert await is_up(self.process, self.address), self._log.read_text()
        async with asyncio.timeout(60):
            while len(self.said("serving")) < count:
                await asyncio.sleep(0.05)


@pytest.fixture
def several(tmp_path: Path, free_port: int, request: pytest.FixtureRequest) -> Iterator[Several]:
    made = Several(tmp_path, free_port, LOQUENT_SERVER=request.param, LOQUENT_LOG_FORMAT="json")
    family = [made.process.pid]
    try:
        yield made
        family += [each.pid for each in made.servers] if made.process.poll() is None else []
    finally:
        for each in family:
            if psutil.pid_exists(each):
                psutil.Process(each).kill()
        made.process.wait()


@pytest.mark.parametrize("several", ["granian"], indirect=True)
async def test_a_server_that_dies_is_started_anew_and_its_jobs_go_on(several: Several) -> None:
    await several.until_serving(2)
    assert len(several.said("starting")) == 1
    assert any("LOQUENT_LIMITER" in line for line in several.said("warning"))
    async with httpx2.AsyncClient(base_url=several.address, timeout=30) as client:
        ids = []
        for number in range(16):
            body = {"prompt": f"[slow 0.02] [words 50] job {number}", "background": True}
            ids.append((await client.post(OURS, json=body, headers={"connection": "close"})).json()["id"])
        [first, _] = several.servers
        first.kill()
        deadline = time.monotonic() + 60
        while len(several.said("serving")) < 3:  # meanwhile the other one answers whoever comes
            body = {"prompt": "hello"}
            assert (await client.post(OURS, json=body, headers={"connection": "close"})).status_code == 200
            assert time.monotonic() < deadline, several.said("error")
            await asyncio.sleep(0.05)
        for id in ids:
            while (found := (await client.get(f"{OURS}/{id}")).json())["status"] in ("pending", "processing"):
                assert time.monotonic() < deadline, found
                await asyncio.sleep(0.1)
            assert found["status"] == "completed", found
        page = (await client.get("/metrics")).text
    assert first.pid not in [each.pid for each in several.servers]
    assert set(re.findall(r'^loquent_running_generations\{process="(\d)"\}', page, re.MULTILINE)) == {"0", "1"}
    assert page.count("# TYPE loquent_requests_total counter") == 1
    servers = several.servers
    several.process.send_signal(signal.SIGTERM)
    assert await end_of(several.process, 30) == 0
    assert not any(each.is_running() for each in servers)


@pytest.mark.parametrize("several", ["uvicorn"], indirect=True)
async def test_the_servers_of_a_parent_that_is_killed_end_by_themselves(several: Several) -> None:
    await several.until_serving(2)
    servers = several.servers
    several.process.kill()
    await end_of(several.process)
    _, alive = await asyncio.to_thread(psutil.wait_procs, servers, 30)
    assert not alive
    assert len(several.said("stopped")) == 2


async def test_what_no_process_can_use_ends_the_parent_with_the_reason(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "not-a-folder").write_text("")
    unusable = {"LOQUENT_DATA_DIR": str(tmp_path / "not-a-folder"), "LOQUENT_LOG_FILE": "off"}
    process: subprocess.Popen[bytes] = start(tmp_path, "serve --workers 2", LOQUENT_PORT=str(free_port), **unusable)
    assert await end_of(process, 30) == 2
    assert "LOQUENT_DATA_DIR" in (tmp_path / "serve --workers 2.log").read_text()
    process = start(tmp_path, "serve --workers 2", LOQUENT_PORT=str(free_port), LOQUENT_STORE="memory:")
    assert await end_of(process, 30) == 2
    assert "each process would have records of its own" in (tmp_path / "serve --workers 2.log").read_text()
