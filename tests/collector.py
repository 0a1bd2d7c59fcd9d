"""A collector of traces for tests: takes OTLP over HTTP, as protobuf, and keeps the spans."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PATIENCE = 30.0  # seconds that spans may take; a slow machine is no fault


@dataclass(frozen=True)
class Span:
    """One span as it came."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    attributes: dict[str, Any]
    error: str | None  # the description of an error; None: it is none
    process: str
    service: str
    begin: int
    end: int


@dataclass
class Collector:
    """What has come so far."""

    url: str
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def trace(self, id: str) -> list[Span]:
        """The spans of one tree, by when they began."""
        return sorted((span for span in self.spans if span.trace == id), key=lambda span: span.begin)

    def wait(self, trace: str, *names: str) -> list[Span]:
        """The tree, once it has these spans. Raises AssertionError where it never does."""
        until = time.monotonic() + PATIENCE
        while sorted(span.name for span in self.trace(trace)) != sorted(names):
            assert time.monotonic() < until, [span.name for span in self.trace(trace)]
            time.sleep(0.02)
        return self.trace(trace)


def children(spans: list[Span], of: Span) -> list[str]:
    """The names of what hangs on a span, by when it began."""
    return [span.name for span in spans if span.parent == of.id]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Such a collector on a free port of loopback, in threads that end with the context."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            collector.bodies.append(body)
            collector.spans.extend(_spans(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _spans(body: bytes) -> Iterator[Span]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = {each.key: _value(each.value) for each in group.resource.attributes}
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    span.kind,
                    {each.key: _value(each.value) for each in span.attributes},
                    span.status.message if span.status.code == 2 else None,
                    about["service.instance.id"],
                    about["service.name"],
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    held = getattr(value, kind)
    return [_value(each) for each in held.values] if kind == "array_value" else held
