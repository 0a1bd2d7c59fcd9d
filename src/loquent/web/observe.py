"""Seeing: structured logs with the request's id in every line, and the metrics page."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog
from prometheus_client import generate_latest

from loquent.services import metrics
from loquent.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Logs to standard output: text on a terminal, one JSON object a line elsewhere."""
    level = logging.getLevelNamesMapping()[settings.log_level]
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stdout.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_text:
        structlog.configure(
            processors=[*shared, structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
            cache_logger_on_first_use=False,
        )
    else:
        structlog.configure(
            processors=[*shared, structlog.processors.dict_tracebacks, _as_json],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.BytesLoggerFactory(file=sys.stdout.buffer),
            cache_logger_on_first_use=False,
        )
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stdout, force=True)


def _as_json(_: Any, __: str, said: MutableMapping[str, Any]) -> bytes:
    return msgspec.json.encode(said, enc_hook=str)


def metrics_page() -> bytes:
    """All metrics in Prometheus' text form."""
    return generate_latest(metrics.registry)
