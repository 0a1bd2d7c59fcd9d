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

from journeys.processes import end_of, start
from journeys.rolling import OURS, Several, roll

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(180)]


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
async def test_told_by_sighup_all_are_replaced_one_after_the_other_if_they_can(
    several: Several, tmp_path: Path
) -> None:
    await several.until_serving(2)
    former = {each.pid for each in several.servers}
    await roll(several)
    renewed = {each.pid for each in several.servers}
    assert (len(renewed), former & renewed) == (2, set())
    assert several.told("serving", "stopping") == ["serving"] * 2 + ["serving", "stopping"] * 2
    page = httpx2.get(f"{several.address}/metrics").text
    assert set(re.findall(r'^loquent_running_generations\{process="(\w+)"\}', page, re.MULTILINE)) == {"0b", "1b"}

    (tmp_path / ".env").write_text("LOQUENT_MODEL=nobody")  # which the next ones cannot use
    several.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(60):
        while not several.said("error"):
            await asyncio.sleep(0.05)
    assert "the old ones stay" in several.said("error")[0]
    assert {each.pid for each in several.servers} == renewed
    several.process.send_signal(signal.SIGTERM)
    assert await end_of(several.process, 30) == 0


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
