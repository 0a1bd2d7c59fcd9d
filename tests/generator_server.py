"""A remote text generator as ML_URL names one: a small real HTTP server, which does what marks in the prompt say.

It says the words of its prompt backwards. ``[status 503]`` answers with that status, ``[slow 0.5]`` takes so many
seconds, ``[false]`` says that it failed; the bodies of BROKEN are sent for ``[broken 0]``, ``[broken 1]``, …
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MARK = re.compile(r"\[(status|slow|broken|false) ?([\d.]*)\]")
BROKEN = (
    b"",
    b"not JSON",
    b"[]",
    b'{"modelResponse": "half',
    b'{"modelResponse": null, "isSuccess": true}',
    b'{"modelResponse": 7, "isSuccess": true}',
    b'{"modelResponse": "text"}',
    b'{"modelResponse": "text", "isSuccess": "yes"}',
    b'{"modelResponse": "\xe9", "isSuccess": true}',
    b'{"modelResponse": "\\ud800", "isSuccess": true}',
    b"[" * 100_000,
)
"""Bodies of a 200 that are no answer."""


@dataclass
class Generator:
    """One that listens."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)  # the bodies that came
    paths: list[str] = field(default_factory=list)


@contextmanager
def generator_server() -> Iterator[Generator]:
    """On a free port of loopback, for as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {}))
    server.daemon_threads, server.block_on_close = True, False
    generator = server.RequestHandlerClass.generator = Generator(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield generator
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers one request after the other."""

    protocol_version = "HTTP/1.1"
    generator: Generator

    def do_GET(self) -> None:
        """There is nothing to read here."""
        self._answer(404, b"{}")

    def do_POST(self) -> None:
        """Generate."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.generator.asked.append(body)
        self.generator.paths.append(self.path)
        prompt = body["prompt"]
        marks = dict(MARK.findall(prompt))
        time.sleep(float(marks.get("slow") or 0))
        if "status" in marks:
            self._answer(int(marks["status"]), json.dumps({"error": f"no: {prompt}"}).encode())
        elif "broken" in marks:
            self._answer(200, BROKEN[int(marks["broken"])])
        else:
            said = " ".join(reversed(MARK.sub("", prompt).split()))
            answer = {"modelResponse": said, "isSuccess": "false" not in marks, "more": 1}
            self._answer(200, json.dumps(answer).encode())

    def _answer(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            if status in (429, 503):
                self.send_header("retry-after", "7")
            if 300 <= status < 400:
                self.send_header("location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # who asked has gone

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
