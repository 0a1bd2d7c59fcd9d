"""Tracers: where traces go, if they go anywhere; the library is imported only then."""

from __future__ import annotations

import os

from loquent.domain.errors import Misconfigured
from loquent.domain.log import Log
from loquent.ports.extras import install
from loquent.ports.tracer import Tracer

log = Log("loquent.traces")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"


def connect(wish: str, endpoint: str) -> Tracer | None:
    """The tracer, not yet opened; None where traces are off. ``wish``: on, off, or auto: where an endpoint is named.

    Raises Misconfigured where they are to be on and the library is not installed.
    """
    if wish == "off" or (wish == "auto" and not endpoint) or _is_disabled():
        return None
    protocol = next(filter(None, map(os.environ.get, PROTOCOLS)), SPOKEN)
    if protocol != SPOKEN:
        log.warning("traces are sent by another protocol than was asked for", asked=protocol, sent=SPOKEN)
    try:
        from loquent.tracers.otel import Otel
    except ImportError as missing:
        needs = f"traces need {missing.name or 'a package'}, which is not installed: {install('otel')}"
        if wish == "on":
            raise Misconfigured(f"LOQUENT_TRACES is on; {needs}") from missing
        log.warning(f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {needs}")
        return None
    return Otel()


def _is_disabled() -> bool:
    """By the standard's own variables."""
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return is_off or os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
