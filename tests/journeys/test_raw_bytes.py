"""Bytes that are hardly HTTP, sent to real servers: each is answered with a 4xx, and the next caller is served."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from loquent.web.logs import FLUSH
from serving import Served, served

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120), pytest.mark.xdist_group("raw-bytes")]

HOST = b"Host: localhost\r\nConnection: close\r\n"
GET = b"GET /api/v1/generations%s HTTP/1.1\r\n" + HOST
POST = b"POST /api/v1/generations HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
UPLOAD = b"POST /api/v1/summaries/files HTTP/1.1\r\n" + HOST + b"Content-Type: multipart/form-data; boundary=x\r\n"
BAD = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "NUL in the path": GET % b"/%00" + b"\r\n",
    "no UTF-8 in the path": GET % b"/%ff%fe" + b"\r\n",
    "bytes in the path": GET % b"/\xff" + b"\r\n",
    "a very long path": GET % (b"?after=" + b"x" * 90_000) + b"\r\n",
    "no host": b"GET /api/v1/health HTTP/1.1\r\nConnection: close\r\n\r\n",
    "two hosts": GET % b"" + b"Host: elsewhere\r\n\r\n",
    "another host": b"GET /api/v1/health HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n",
    "a large header": GET % b"" + b"X-A: " + b"x" * 70_000 + b"\r\n\r\n",
    "a huge header": GET % b"" + b"X-A: " + b"x" * 700_000 + b"\r\n\r\n",
    "many headers": GET % b"" + b"".join(b"X-%d: 1\r\n" % n for n in range(120)) + b"\r\n",
    "one header many times": GET % b"" + (b"X: " + b"y" * 900 + b"\r\n") * 90 + b"\r\n",
    "bytes for a token": GET % b"" + b"Authorization: Bearer \xff\xfe.a.b\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}  ",
    "a negative length": POST + b"Content-Length: -3\r\n\r\n{}  ",
    "a length beyond all": POST + b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
    "a length over the limit": POST + b"Content-Length: 9999999\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "an upload's chunk that is none": UPLOAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n--x\r\n0\r\n\r\n",
    "a body that does not come": POST + b'Content-Length: 30\r\n\r\n{"a"',
    "an upload that does not come": UPLOAD + b"Content-Length: 300\r\n\r\n--x\r\nCo",
}

FORM = b"username=nobody&password=whatever"
GOOD = b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
GOOD += b"Content-Length: %d\r\n\r\n" % len(FORM) + FORM  # whose answer takes a while, and which stores nothing
NEXT = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n"
BEHIND = {
    "no HTTP": b"\x16\x03\x01\r\n\r\n",
    "a request and no HTTP": NEXT + b"\r\n\x16\x03\x01\r\n\r\n",
    "two requests and no HTTP": 2 * (NEXT + b"\r\n") + b"\x16\x03\x01\r\n\r\n",
    "a chunk that is none": NEXT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "another protocol": NEXT + b"Connection: close, upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
}


@pytest.fixture(scope="module", params=["granian", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp(request.param), LOQUENT_SERVER=request.param, LOQUENT_BODY_SECONDS="0.3"
    ) as found:
        yield found


def talk(server: Served, sent: bytes) -> bytes:
    """What comes back, until the server closes."""
    came = b""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as line:
        try:
            line.sendall(sent)
            while piece := line.recv(65_536):
                came += piece
        except ConnectionError:
            return came  # closed while we still spoke
    return came


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused_and_the_next_caller_is_served(server: Served, name: str) -> None:
    came = talk(server, BAD[name])
    if came or name not in ("a huge header", "a very long path"):  # those may be cut off before they have been said
        assert came[:12].startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), came[:300]
    with urllib.request.urlopen(f"{server.url}/api/v1/generations", timeout=10) as answer:  # noqa: S310
        assert json.load(answer)["data"] == [], "nothing is half stored"


@pytest.mark.parametrize("name", BEHIND)
def test_what_stands_behind_a_good_request_is_quietly_refused(server: Served, name: str) -> None:
    assert talk(server, GOOD + BEHIND[name]).startswith(b"HTTP/1.1 400")


def test_none_of_it_is_more_than_a_request_in_the_log(server: Served) -> None:
    for sent in (*BAD.values(), *(GOOD + garbage for garbage in BEHIND.values())):
        talk(server, sent)
    until = time.monotonic() + 20
    while server.metric("loquent_requests_in_flight") > 1 and time.monotonic() < until:  # this one is
        time.sleep(0.05)
    time.sleep(2 * FLUSH)
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert "/token" in {line.get("path") for line in lines}
    assert [line for line in lines if line["level"] != "info"] == []
    assert "Traceback" not in server.log.read_text()
