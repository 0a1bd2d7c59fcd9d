"""Seeing: structured logs with the request's id in every line, and the metrics page."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any

import msgspec

from loquent.domain.log import CONTENT, Log, request
from loquent.settings import Settings
from loquent.web.logs import File, Sink, StandardOutput, Writer

encode = msgspec.json.Encoder().encode
SILENT = logging.CRITICAL + 1
OURS = {"uvicorn.access": "loquent.http", "sqlalchemy.engine": "loquent.sql"}
"""What others call a log, with what it is called here: for DISABLE_LOGGERS."""
_named: list[str] = []


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


class Lines(logging.Handler):
    """Gives each record, as a line, to a place that lines wait for."""

    def __init__(self, sink: Sink, writer: Writer, form: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(form)
        self.sink = sink
        self._writer = writer

    def createLock(self) -> None:  # noqa: N802  (the standard library's name)
        """None: lines may be put from any thread, and the writer's own thread logs too."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """See logging.Handler; without a lock, and filters, which nobody sets."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            self.sink.put(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self._writer.hurry()

    def flush(self) -> None:
        """See logging.Handler."""
        self._writer.flush()

    def close(self) -> None:
        """See logging.Handler. Called whenever a library sets up its own logs: the writer goes on."""
        self._writer.flush()
        super().close()

    def stop(self) -> None:
        """Write what waits and let go, for good."""
        self._writer.close()
        atexit.unregister(self._writer.close)


class AccessLog:
    """A line for each request, as the log's other lines are, but quicker where they are JSON: it is on every way."""

    def __init__(self) -> None:
        self._log = Log("loquent.http")
        handlers = logging.getLogger().handlers
        quick = [each.sink for each in handlers if isinstance(each, Lines) and isinstance(each.formatter, AsJson)]
        self._puts = tuple(sink.put for sink in quick)
        self._is_quick = self._log.says(logging.INFO) and 0 < len(quick) == len(handlers)
        self._second, self._said = 0, b""

    def __call__(self, method: str, path: str, status: int, took: float, request_id: str) -> None:
        """Write it, within FLUSH seconds. ``took``: seconds."""
        if not self._is_quick:
            self._log.info("request", method=method, path=path, status=status, ms=round(took * 1000, 2))
            return
        seconds, micros = divmod(time.time_ns() // 1_000, 1_000_000)
        if seconds != self._second:
            self._second, self._said = seconds, datetime.fromtimestamp(seconds, UTC).isoformat()[:19].encode()
        line = (
            b'{"time":"%s.%06d+00:00","level":"info","logger":"loquent.http","event":"request","request_id":"%s",'
            b'"method":"%s","path":%s,"status":%d,"ms":%.2f}\n'
            % (self._said, micros, request_id.encode(), method.encode(), encode(path), status, took * 1000)
        )
        for put in self._puts:
            put(line)


def configure_logs(settings: Settings, *, shares_output: bool = False) -> None:
    """Logs to standard output, text on a terminal and one JSON object a line elsewhere; and to the file, as JSON.

    ``shares_output``: other processes write to this one's standard output, too.
    """
    for known in logging.getLogger().handlers:
        if isinstance(known, Lines):
            known.stop()
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stdout.isatty())
    sinks, forms = [Sink(StandardOutput(shared=shares_output))], [AsText() if as_text else AsJson()]
    if settings.log_path is not None:
        sinks.append(Sink(File(settings.log_path, size=settings.log_file_size, keep=settings.log_files)))
        forms.append(AsJson())
    writer = Writer(sinks)
    atexit.register(writer.close)
    handlers = [Lines(sink, writer, form) for sink, form in zip(sinks, forms, strict=True)]
    logging.basicConfig(level=max(logging.WARNING, settings.log_number), handlers=handlers, force=True)
    _set_levels(settings)
    sys.excepthook = partial(_crash, writer)
    # where a line came from is not shown, so it need not be found out: the standard library's own advice for speed
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _set_levels(settings: Settings) -> None:
    """The level of all, then of those that are named; what the last call named is forgotten."""
    for name in _named:
        logging.getLogger(name).setLevel(logging.NOTSET)
    levels: dict[str, int | str] = {"loquent": settings.log_number, **dict(settings.log_levels)}
    levels |= {OURS.get(name, name): SILENT for name in settings.disable_loggers}
    if not settings.log_content:
        levels[CONTENT] = SILENT  # whatever level was named for it
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    _named[:] = levels


def _crash(
    writer: Writer, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:  # pragma: no cover  (at the end of a process)
    """What nobody caught: first what led to it, then the traceback."""
    writer.flush()
    sys.__excepthook__(kind, error, trace)
