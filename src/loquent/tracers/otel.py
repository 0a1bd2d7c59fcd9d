"""Traces by OpenTelemetry, to a collector over HTTP, as the standard OTEL_* variables say.

A thread of the library's hands spans over, in batches; its line is bounded, and a collector that is away costs spans.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace import Span as Recorded
from opentelemetry.trace import Tracer as Library
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from loquent import __version__
from loquent.domain.errors import Misconfigured, Unavailable
from loquent.domain.log import Log
from loquent.domain.urls import without_password
from loquent.ports.tracer import CLIENT, CONSUMER, INTERNAL, SERVER, Attributes, Carried, Span

log = Log("loquent.traces")
FLUSH_SECONDS = 5.0  # for handing over the last spans, when all stops
CHECK_SECONDS = 3.0  # that a collector may take to answer people who ask
REASONS = (
    r"(?:new connection: \[Errno \d+\] |Caused by \w*SSLError.*?'\[)([\w: ]+)",
    r"(Failed to resolve '[^']+')",
    r"code: None, reason: (.+)",
    r"code: (.+)",
    r"Transient error (.+) encountered",
)
"""Where the library's words say what was wrong."""
KINDS = {
    INTERNAL: SpanKind.INTERNAL,
    SERVER: SpanKind.SERVER,
    CLIENT: SpanKind.CLIENT,
    CONSUMER: SpanKind.CONSUMER,
}
NOWHERE = Context()
W3C = TraceContextTextMapPropagator()  # what records carry, whatever headers are to be spoken


class Otel:
    """See the port."""

    def __init__(self) -> None:
        spoken = propagate.get_global_textmap()  # by OTEL_PROPAGATORS
        self.heard = frozenset(name.lower().encode() for name in spoken.fields)
        self._reads = CompositePropagator([W3C, spoken])
        self._provider: TracerProvider | None = None
        self._exporter: Watched | None = None
        self._library: Library = NoOpTracer()

    async def open(self) -> None:
        """See the port: nothing is connected before there are spans."""
        # by others' names it would speak of every try of every batch
        for name in ("opentelemetry.exporter", "opentelemetry.sdk.trace.export"):
            if (others := logging.getLogger(name)).level == logging.NOTSET:
                others.setLevel(logging.CRITICAL)
        about = Resource({"service.name": "loquent", "service.version": __version__})
        about = Resource.create().merge(about).merge(OTELResourceDetector().detect())
        try:
            self._exporter = Watched(OTLPSpanExporter())
            self._provider = TracerProvider(resource=about, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        except (ValueError, OSError) as error:  # a number that is none, a certificate that is not there
            raise Misconfigured(f"an OTEL_ variable cannot be used: {error}") from error
        self._library = self._provider.get_tracer("loquent", __version__)

    async def check(self) -> None:
        """See the port."""
        if why := await asyncio.to_thread(_refusal):
            raise Unavailable(f"the collector does not take spans: {why}")

    async def close(self) -> None:
        """See the port."""
        provider, self._provider = self._provider, None
        if provider is None or self._exporter is None:
            return
        self._library = NoOpTracer()
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def flush() -> None:
            provider.shutdown()
            with suppress(RuntimeError):  # nobody has waited so long
                loop.call_soon_threadsafe(over.set)

        # not of the loop's own threads: those are waited for at the end, and this one may hang
        threading.Thread(target=flush, name="last-spans", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await over.wait()
        except TimeoutError:
            log.warning("the last spans could not be handed over", seconds=FLUSH_SECONDS)
        finally:
            self._exporter.shutdown()

    def begin(self, name: str, kind: str, under: Span | Carried | None, attributes: Attributes) -> Span:
        """See the port."""
        if isinstance(under, Told):
            if not under.is_kept:
                return under  # nothing of its tree is: it stands for all that would hang on it
            context = under.context()
        elif isinstance(under, Mapping) and under:
            context = self._reads.extract(under, NOWHERE)
        else:
            context = NOWHERE
        return Told(self._library.start_span(name, context, KINDS[kind], attributes))


class Told:
    """A span of the library's."""

    __slots__ = ("_recorded", "is_kept")

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.is_kept = recorded.is_recording()

    def call(self, name: str) -> None:
        """See the port."""
        self._recorded.update_name(name)

    def tell(self, attributes: Attributes) -> None:
        """See the port."""
        self._recorded.set_attributes(attributes)

    def fail(self, code: str, message: str = "") -> None:
        """See the port."""
        self._recorded.set_attribute("error.type", code)
        self._recorded.set_status(StatusCode.ERROR, message or None)

    def end(self) -> None:
        """See the port."""
        self._recorded.end()

    def carried(self) -> Carried:
        """See the port."""
        carrier: dict[str, str] = {}
        W3C.inject(carrier, self.context())
        return carrier

    def headers(self) -> str:
        """See the port."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, self.context())
        return "".join(f"{name}: {value}\r\n" for name, value in carrier.items())

    def context(self) -> Context:
        """It alone: what a caller has sent beside its trace (baggage) goes no further."""
        return set_span_in_context(self._recorded, NOWHERE)


class Watched(SpanExporter):
    """The library's way to the collector, which says once that it is blocked and once that it is free."""

    def __init__(self, way: OTLPSpanExporter) -> None:
        self._way = way
        self._lost = 0  # spans, since it is blocked
        self._is_stopped = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See the library; in its thread, for as long as OTEL_EXPORTER_OTLP_TIMEOUT says."""
        result = self._way.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                log.warning("the collector of traces does not take them; they are dropped")
            self._lost += len(spans)
        elif self._lost:
            lost, self._lost = self._lost, 0
            log.info("the collector of traces takes them again", lost=lost)
        return result

    def shutdown(self) -> None:
        """See the library; also to end a try that goes on too long."""
        if not self._is_stopped:
            self._is_stopped = True
            self._way.shutdown()  # type: ignore[no-untyped-call]  # the library says nothing of it


class Reasons(logging.Handler):
    """Keeps what the library says of a try: it gives no reason but in its log."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See the library."""
        self.said.append(record.getMessage())


def _refusal() -> str:
    """Why the collector does not take a batch of no spans; empty where it does."""
    library, reasons = logging.getLogger("opentelemetry.exporter"), Reasons()
    level, library.propagate = library.level, False
    library.addHandler(reasons)
    library.setLevel(logging.WARNING)
    way = OTLPSpanExporter(timeout=CHECK_SECONDS)
    try:
        if way.export(()) is SpanExportResult.SUCCESS:
            return ""
    finally:
        way.shutdown()  # type: ignore[no-untyped-call]  # the library says nothing of it
        library.removeHandler(reasons)
        library.setLevel(level)
        library.propagate = True
    found = (re.search(each, said) for said in reasons.said for each in REASONS)
    return next((without_password(each[1])[:200] for each in found if each), "it does not answer")
