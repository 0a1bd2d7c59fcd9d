"""What can be seen from outside: logs, metrics, traces."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from loquent.domain.kinds import FLAG, HOSTS, LEVEL, LOGGERS, NAMES, TEXT, one_of, setting, whole

GROUP = "Logs and metrics"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Seeing:
    """What is told of what goes on."""

    log_level: str = setting(
        "",
        LEVEL,
        "What is logged.",
        env="LOQUENT_LOG_LEVEL",
        aliases=("LOG_LEVEL",),
        group=GROUP,
        shown_default="INFO; DEBUG where LOQUENT_DEBUG is on",
    )
    debug: bool = setting(
        False, FLAG, "Whether everything is logged.", env="LOQUENT_DEBUG", aliases=("DEBUG",), group=GROUP
    )
    log_levels: tuple[tuple[str, str], ...] = setting(
        (),
        LOGGERS,
        "Levels of single loggers; loquent.sql says at DEBUG what the database is asked.",
        env="LOQUENT_LOG_LEVELS",
        group=GROUP,
        shown_default="none",
    )
    disable_loggers: tuple[str, ...] = setting(
        (),
        NAMES,
        "Loggers that say nothing.",
        env="DISABLE_LOGGERS",
        group=GROUP,
        shown_default="none",
    )
    log_format: str = setting(
        "auto",
        one_of("auto", "json", "text"),
        "The form of the log; auto: text on a terminal, JSON elsewhere.",
        env="LOQUENT_LOG_FORMAT",
        group=GROUP,
    )
    log_file: str = setting(
        "",
        TEXT,
        "A file that the server and workers log to, as JSON, beside standard output; off: none.",
        env="LOQUENT_LOG_FILE",
        group=GROUP,
        shown_default="{LOQUENT_DATA_DIR}/app.log",
    )
    log_file_size: int = setting(
        10_000_000,
        whole(1_000, 1_000_000_000_000),
        "Bytes after which that file is rotated away.",
        env="LOQUENT_LOG_FILE_SIZE",
        group=GROUP,
    )
    log_files: int = setting(
        5,
        whole(1, 1_000),
        "Files that were rotated away and are kept: app.log.1, the newest, and on.",
        env="LOQUENT_LOG_FILES",
        group=GROUP,
    )
    log_content: bool = setting(
        False,
        FLAG,
        "Whether prompts and answers are logged.",
        env="LOQUENT_LOG_CONTENT",
        aliases=("LOG_CONTENT",),
        group=GROUP,
    )
    metrics: bool = setting(True, FLAG, "Whether /metrics is served.", env="LOQUENT_METRICS", group=GROUP)
    traces: str = setting(
        "auto",
        one_of("auto", "on", "off"),
        "Whether spans are sent to a collector (docs/how-to/traces.md); auto: where one is named.",
        env="LOQUENT_TRACES",
        group=GROUP,
    )
    traces_endpoint: str = setting(
        "",
        TEXT,
        "The collector of traces, by OTLP over HTTP; the other variables of OpenTelemetry (OTEL_…) count as well.",
        env="OTEL_EXPORTER_OTLP_ENDPOINT",
        aliases=("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",),
        group=GROUP,
        shown_default="none; http://localhost:4318 where LOQUENT_TRACES is on",
    )
    traces_to: tuple[str, ...] = setting(
        (),
        HOSTS,
        "Hosts of engines that are told, by a traceparent header, to which trace a call belongs.",
        env="LOQUENT_TRACES_TO",
        group=GROUP,
        shown_default="none",
    )
    worker_port: int = setting(
        0,
        whole(0, 65535),
        "The port on which `loquent worker` tells monitors of itself, at LOQUENT_HOST: /metrics, "
        "/api/v1/health/live and /api/v1/health/ready; 0: none.",
        env="LOQUENT_WORKER_PORT",
        group=GROUP,
    )

    @property
    def log_number(self) -> int:
        """The level as the standard library counts it."""
        return logging.getLevelNamesMapping()[self.log_level or ("DEBUG" if self.debug else "INFO")]
