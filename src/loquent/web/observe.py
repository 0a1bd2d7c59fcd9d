"""Seeing: structured logs with the request's id in every line, and the metrics page."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from prometheus_client import generate_latest

from loquent.domain.log import Log, request
from loquent.services import metrics
from loquent.settings import Settings

encode = msgspec.json.Encoder().encode
FLUSH = 0.2  # seconds for which a line of the access log may wait for others


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
        clock = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = "  ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{clock} {record.levelname.lower():7} {record.getMessage():10} {fields}"
        if request_id := request.get():
            line += f"  request_id={request_id}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class AccessLog:
    """A line for each request, as the log's other lines are, but quicker where they are JSON: it is on every way."""

    def __init__(self) -> None:
        self._log = Log("loquent.http")
        logger = logging.getLogger("loquent.http")
        formats = [handler.formatter for handler in logging.getLogger().handlers]
        self._is_quick = logger.isEnabledFor(logging.INFO) and len(formats) == 1 and isinstance(formats[0], AsJson)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._second, self._said = 0, ""

    def __call__(self, method: str, path: str, status: int, ms: float, request_id: str) -> None:
        """Write it, within FLUSH seconds."""
        if not self._is_quick:
            self._log.info("request", method=method, path=path, status=status, ms=ms)
            return
        seconds, micros = divmod(time.time_ns() // 1_000, 1_000_000)
        if seconds != self._second:
            self._second, self._said = seconds, datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
        sys.stdout.buffer.write(
            b'{"time":"%s.%06d+00:00","level":"info","logger":"loquent.http","event":"request","request_id":"%s",'
            b'"method":"%s","path":%s,"status":%d,"ms":%r}\n'
            % (self._said.encode(), micros, request_id.encode(), method.encode(), encode(path), status, ms)
        )
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(FLUSH, self._flush)

    def _flush(self) -> None:
        self._loop = None
        sys.stdout.buffer.flush()


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
