"""Seeing: structured logs with the request's id in every line, and the metrics page."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
from prometheus_client import generate_latest

from loquent.domain.log import request
from loquent.services import metrics
from loquent.settings import Settings


class AsJson(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if request_id := request.get():
            said["request_id"] = request_id
        said.update(getattr(record, "fields", ()))
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said, enc_hook=str).decode()


class AsText(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = "  ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{time} {record.levelname.lower():7} {record.getMessage():10} {fields}"
        if request_id := request.get():
            line += f"  request_id={request_id}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logs(settings: Settings) -> None:
    """Logs to standard output: text on a terminal, one JSON object a line elsewhere."""
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stdout.isatty())
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(AsText() if as_text else AsJson())
    logging.basicConfig(level=max(logging.WARNING, settings.log_number), handlers=[handler], force=True)
    logging.getLogger("loquent").setLevel(settings.log_number)
    # where a line came from is not shown, so it need not be found out: the standard library's own advice for speed
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def metrics_page() -> bytes:
    """All metrics in Prometheus' text form."""
    return generate_latest(metrics.registry)
