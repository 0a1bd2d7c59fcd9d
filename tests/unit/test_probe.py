"""The probe of a worker: what it tells monitors, and that nobody holds it up."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from built import opened
from loquent.domain.errors import Misconfigured
from loquent.probe import MOST, MOST_HEAD, Probe, probed
from loquent.wiring import Services

pytestmark = pytest.mark.anyio
LIVE, READY = "/api/v1/health/live", "/api/v1/health/ready"


@asynccontextmanager
async def at(folder: Path, port: int, **environ: str) -> AsyncIterator[tuple[httpx2.AsyncClient, Services, Probe]]:
    async with (
        opened(folder, works=False, LOQUENT_WORKER_PORT=str(port), **environ) as services,
        probed(services) as probe,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        probe.is_open = True
        services.watch.fresh = 0.0
        yield client, services, probe


async def said(port: int, sent: bytes) -> bytes:
    """All that comes back for these bytes, until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            writer.write(sent)
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])  # as workers have it
async def test_a_monitor_that_hangs_up_meanwhile_is_no_fault(
    tmp_path: Path, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with at(tmp_path, free_port) as (_, _, probe):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", free_port)) as line:
                line.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # by a reset
            await asyncio.sleep(0.001)
        async with asyncio.timeout(20):
            while probe._under_way:
                await asyncio.sleep(0.01)
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


async def test_it_tells_of_life_readiness_and_metrics(tmp_path: Path, free_port: int) -> None:
    async with at(tmp_path, free_port) as (client, services, _):
        for path in (LIVE, READY, f"{READY}/", f"{LIVE}?x=1"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
        page = await client.get("/metrics")
        assert page.headers["content-type"] == "text/plain; version=0.0.4"
        assert "\nloquent_job_slots 0.0\n" in page.text
        assert (await client.head("/metrics")).text == ""
        assert (await client.get("/api/v1/generations")).status_code == 404
        assert (await client.post(LIVE)).status_code == 405
        await services.store.close()
        assert (await client.get(LIVE)).status_code == 200
        assert (await client.get(READY)).status_code == 503
        assert 'loquent_part_up{part="database"} 0.0' in (await client.get("/metrics")).text
        await services.store.open()


async def test_before_the_start_is_over_it_only_lives(tmp_path: Path, free_port: int) -> None:
    async with at(tmp_path, free_port) as (client, _, probe):
        probe.is_open = False
        assert [(await client.get(path)).status_code for path in (LIVE, READY, "/metrics")] == [200, 503, 503]


async def test_metrics_that_are_switched_off_are_not_told(tmp_path: Path, free_port: int) -> None:
    async with at(tmp_path, free_port, LOQUENT_METRICS="off") as (client, _, _):
        assert [(await client.get(path)).status_code for path in ("/metrics", LIVE)] == [404, 200]


async def test_without_a_port_nobody_listens_and_one_in_use_stops_the_start(tmp_path: Path, free_port: int) -> None:
    async with opened(tmp_path, works=False) as services, probed(services):
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", free_port)
    async with at(tmp_path, free_port) as (_, services, _):
        with pytest.raises(Misconfigured, match=f"port {free_port}: .*LOQUENT_WORKER_PORT"):
            async with probed(services):
                pass


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET " + b"x" * 2 * MOST_HEAD + b" HTTP/1.1\r\n\r\n", b""),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 "),
    ],
    ids=["nonsense", "tls", "endless", "good"],
)
async def test_whatever_is_sent_is_answered_or_hung_up_on(
    tmp_path: Path, free_port: int, sent: bytes, answer: bytes
) -> None:
    async with at(tmp_path, free_port):
        found = await said(free_port, sent)
        assert found.startswith(answer) and bool(found) == bool(answer)


async def test_those_who_say_nothing_are_bounded_and_hold_up_no_stop(tmp_path: Path, free_port: int) -> None:
    async with at(tmp_path, free_port) as (client, _, _):
        idle = [await asyncio.open_connection("127.0.0.1", free_port) for _ in range(MOST)]
        with pytest.raises(httpx2.TransportError):
            await client.get(LIVE)
        idle.pop()[1].close()
        await asyncio.sleep(0.2)
        assert (await client.get(LIVE)).status_code == 200
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5
    for reader, writer in idle:
        assert await reader.read() == b""
        writer.close()
