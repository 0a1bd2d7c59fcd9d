"""Settings: one typed place, read from the environment and ``.env``; every one has a default that works."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from loquent.domain.errors import Misconfigured
from loquent.domain.kinds import (
    DATABASE,
    FILE,
    FLAG,
    FOLDER,
    HOSTS,
    HTTP,
    KEY_HOSTS,
    LEVEL,
    LOGGERS,
    NAMES,
    NETWORKS,
    SECRET,
    SIZE,
    TEXT,
    WINDOWS,
    Networks,
    Windows,
    number,
    one_of,
    setting,
    url,
    whole,
)
from loquent.domain.urls import without_password

SERVER, DATA, ACCESS, MODELS = "Server", "Data", "Access", "Models"
LIMITS, JOBS, KEEPING, SEEING = "Limits", "Jobs", "Retention", "Logs and metrics"

LATER = frozenset(("mongodb",))
"""Backends that a family's own variable may name though this version does not carry them: told, and passed over."""
WRITTEN = {"AWS_BUCKET_NAME": "s3://{}"}
"""What stands in such a variable, as a URL."""
ELSEWHERE = {"CELERY_RESULT_BACKEND": "results are kept with the records"}
"""Variables of the families that have no place here, and why they need none."""


@dataclass(frozen=True, repr=False)  # some are secrets, or URLs with a password
class Settings:
    """Everything that can be set, by field."""

    host: str = setting(
        "127.0.0.1", TEXT, "The address to listen on.", env="LOQUENT_HOST", aliases=("HOST",), group=SERVER
    )
    port: int = setting(
        8000, whole(0, 65535), "The port to listen on.", env="LOQUENT_PORT", aliases=("PORT",), group=SERVER
    )
    server: str = setting(
        "granian",
        one_of("granian", "uvicorn"),
        "The HTTP server: granian carries more streams and closes slow clients, uvicorn takes less memory.",
        env="LOQUENT_SERVER",
        group=SERVER,
    )
    workers: int = setting(
        1,
        whole(1, 64),
        "Processes that `loquent serve` answers with, all on its port.",
        env="LOQUENT_WORKERS",
        group=SERVER,
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        HOSTS,
        "Host names that requests may carry. A server on loopback takes only loopback names by default.",
        env="LOQUENT_ALLOWED_HOSTS",
        aliases=("ALLOWED_HOSTS",),
        group=SERVER,
        shown_default="loopback names on loopback, otherwise any",
    )
    trusted_proxies: Networks = setting(
        (),
        NETWORKS,
        "Proxies that are believed when they say, by X-Forwarded-For or Forwarded, from where a request comes.",
        env="LOQUENT_TRUSTED_PROXIES",
        group=SERVER,
        shown_default="none",
    )
    max_body: int = setting(
        1_000_000,
        whole(1_000, 1_000_000_000),
        "Bytes that a JSON or form body may have, without the pictures in it.",
        env="LOQUENT_MAX_BODY",
        group=SERVER,
    )
    max_upload: int = setting(
        20_000_000,
        whole(1_000, 10_000_000_000),
        "Bytes that an uploaded file may have, or a JSON body with pictures in it.",
        env="LOQUENT_MAX_UPLOAD",
        group=SERVER,
    )
    body_seconds: float = setting(
        30.0,
        number(0.05, 3600),
        "Seconds in which a request's body must have come.",
        env="LOQUENT_BODY_SECONDS",
        group=SERVER,
    )
    stop_seconds: float = setting(
        20.0,
        number(0, 3600),
        "Seconds in which a stop lets streams and jobs end.",
        env="LOQUENT_STOP_SECONDS",
        group=SERVER,
    )
    stop_delay: float = setting(
        0.0,
        number(0, 3600),
        "Seconds before that in which all is served as ever but by name not ready, so that a balancer notices; then "
        "connections are refused (docs/how-to/upgrade.md).",
        env="LOQUENT_STOP_DELAY",
        group=SERVER,
    )

    data_dir: Path = setting(
        Path("data"),
        FOLDER,
        "Where everything local is kept: database, models, the secret.",
        env="LOQUENT_DATA_DIR",
        group=DATA,
    )
    store: str = setting(
        "",
        url("sqlite", "postgresql", "postgres", "memory", "dynamodb"),
        "Where records are kept.",
        env="LOQUENT_STORE",
        aliases=("DATABASE_URL", "MONGO_URI"),
        group=DATA,
        shown_default="sqlite:///{LOQUENT_DATA_DIR}/{DB_NAME}",
    )
    db_name: str = setting(
        "loquent.db",
        DATABASE,
        "The name of the SQLite file in the data folder, or a path from there.",
        env="DB_NAME",
        group=DATA,
    )
    queue: str = setting(
        "local:",
        url("local", "redis", "rediss", "amqp", "amqps", "pyamqp", "sqs"),
        "How workers are told of jobs: within a process, or by Celery over that broker.",
        env="LOQUENT_QUEUE",
        aliases=("CELERY_BROKER_URL",),
        group=DATA,
    )
    limiter: str = setting(
        "memory:",
        url("memory", "redis", "rediss"),
        "Where rates are counted.",
        env="LOQUENT_LIMITER",
        aliases=("REDIS_URL",),
        group=DATA,
    )
    cache: str = setting(
        "memory:",
        url("memory", "redis", "rediss", word="off"),
        "Where answers are kept that would come out the same again (temperature 0, or asked for), for all callers of a "
        "tenant; one in Redis is shared by all processes.",
        env="LOQUENT_CACHE",
        group=DATA,
    )
    cache_seconds: float = setting(
        3600.0,
        number(0.05, 2_592_000),
        "Seconds for which an answer is kept there.",
        env="LOQUENT_CACHE_SECONDS",
        group=DATA,
    )
    cache_size: int = setting(
        64_000_000,
        whole(10_000, 1_000_000_000_000),
        "Bytes of memory that kept answers may take in one process.",
        env="LOQUENT_CACHE_SIZE",
        group=DATA,
    )
    free_space: int = setting(
        64 << 20,
        SIZE,
        "Bytes that stay free on the disks of database and uploads: with less nothing new is begun (507). 0: any.",
        env="LOQUENT_FREE_SPACE",
        group=DATA,
        shown_default="64MB",
    )
    blobs: str = setting(
        "",
        url("file", "s3"),
        "Where uploaded files are kept: a folder, or a bucket as in s3://bucket/prefix (docs/how-to/files-in-s3.md).",
        env="LOQUENT_BLOBS",
        aliases=("AWS_BUCKET_NAME",),
        group=DATA,
        shown_default="file:///{LOQUENT_DATA_DIR}/blobs",
    )
    blobs_presign: bool = setting(
        False,
        FLAG,
        "Whether downloads are sent on to the bucket of an s3: URL by a link that is good for minutes.",
        env="LOQUENT_BLOBS_PRESIGN",
        group=DATA,
    )
    aws_region: str = setting(
        "",
        TEXT,
        "The region of a backend at AWS, where its URL names none.",
        env="AWS_REGION",
        aliases=("REGION_NAME",),
        group=DATA,
        shown_default="as the AWS library finds it",
    )
    aws_key_id: str = setting(
        "",
        TEXT,
        "The key to backends at AWS.",
        env="AWS_ACCESS_KEY_ID",
        aliases=("AWSAccessKeyId",),
        group=DATA,
        secret=True,
        shown_default="as the AWS library finds it",
    )
    aws_secret_key: str = setting(
        "",
        TEXT,
        "The secret of that key.",
        env="AWS_SECRET_ACCESS_KEY",
        aliases=("AWSSecretKey",),
        group=DATA,
        secret=True,
        shown_default="as the AWS library finds it",
    )

    secret: str = setting(
        "",
        SECRET,
        "Signs access tokens. Without one, a random one is made in the data folder.",
        env="LOQUENT_SECRET",
        aliases=("SECRET_KEY", "JWT_SECRET_KEY"),
        group=ACCESS,
        secret=True,
        shown_default="made in the data folder",
    )
    algorithm: str = setting(
        "HS256",
        one_of("HS256"),
        "How access tokens are signed.",
        env="LOQUENT_ALGORITHM",
        aliases=("ALGORITHM",),
        group=ACCESS,
    )
    token_minutes: int = setting(
        60,
        whole(1, 525_600),
        "Minutes for which an access token is good.",
        env="LOQUENT_TOKEN_MINUTES",
        aliases=("ACCESS_TOKEN_EXPIRE_MINUTES",),
        group=ACCESS,
    )
    anonymous: str = setting(
        "auto",
        one_of("auto", "on", "off"),
        "Whether callers without an account are served; auto: only on loopback, and behind no proxy.",
        env="LOQUENT_ANONYMOUS",
        group=ACCESS,
    )
    password_threads: int = setting(
        2, whole(1, 64), "Passwords that are hashed at the same time.", env="LOQUENT_PASSWORD_THREADS", group=ACCESS
    )

    models: Path | None = setting(
        None,
        FILE,
        "A TOML file of model rows, [[model]] each.",
        env="LOQUENT_MODELS",
        group=MODELS,
        shown_default="the shipped rows",
    )
    key_hosts: tuple[tuple[str, str], ...] = setting(
        (),
        KEY_HOSTS,
        "The hosts to which models that are added at run time may send the key of a variable; those of the rows of "
        "LOQUENT_MODELS go without saying.",
        env="LOQUENT_KEY_HOSTS",
        group=MODELS,
        shown_default="none",
    )
    models_dir: Path | None = setting(
        None,
        FOLDER,
        "Where model weights are kept.",
        env="LOQUENT_MODELS_DIR",
        group=MODELS,
        shown_default="{LOQUENT_DATA_DIR}/models",
    )
    model: str = setting(
        "",
        TEXT,
        "The model that answers where a caller names none.",
        env="LOQUENT_MODEL",
        group=MODELS,
        shown_default="the first row that can chat",
    )
    text_model: str = setting(
        "",
        TEXT,
        "The model that goes on from a prompt for the textgen family; a name that is no model's here is passed over.",
        env="MODEL_NAME",
        group=MODELS,
        shown_default="the one of LLM_ID, otherwise LOQUENT_MODEL",
    )
    llm_id: str = setting(
        "",
        TEXT,
        "The same by the model's id, as at Hugging Face; one that is no model's here is passed over.",
        env="LLM_ID",
        group=MODELS,
        shown_default="none",
    )
    summary_model: str = setting(
        "extractive",
        TEXT,
        "The model that summarises where a caller names none.",
        env="LOQUENT_SUMMARY_MODEL",
        group=MODELS,
    )
    image_model: str = setting(
        "",
        TEXT,
        "The model that says what is in an image where a caller names none.",
        env="LOQUENT_IMAGE_MODEL",
        group=MODELS,
        shown_default="the first row with vision",
    )
    image_model_url: str = setting(
        "",
        HTTP,
        "An HTTP predictor for images; with it a model row is made by itself.",
        env="IMAGE_MODEL_URL",
        group=MODELS,
        shown_default="none",
    )
    document_model: str = setting(
        "",
        TEXT,
        "The model that answers about a document where a caller names none.",
        env="LOQUENT_DOCUMENT_MODEL",
        group=MODELS,
        shown_default="the one of ML_URL, otherwise the summary model",
    )
    ml_url: str = setting(
        "",
        HTTP,
        "An HTTP generator for documents, asked at /generateContent; with it a model row is made by itself.",
        env="ML_URL",
        group=MODELS,
        shown_default="none",
    )
    llama_slots: int = setting(
        4,
        whole(1, 64),
        "Answers that the embedded engine makes at the same time.",
        env="LOQUENT_LLAMA_SLOTS",
        group=MODELS,
    )
    llama_threads: int = setting(
        0,
        whole(0, 256),
        "Processor threads of the embedded engine; 0: as many as there are cores, but one.",
        env="LOQUENT_LLAMA_THREADS",
        group=MODELS,
    )
    llama_context: int = setting(
        4096,
        whole(256, 1_048_576),
        "Tokens that one answer's input and output may have, where the model allows.",
        env="LOQUENT_LLAMA_CONTEXT",
        group=MODELS,
    )
    llama_memory: int | None = setting(
        None,
        SIZE,
        "Memory that embedded models may take together: the one that was asked longest ago makes room. 0: no bound.",
        env="LOQUENT_LLAMA_MEMORY",
        group=MODELS,
        shown_default="three quarters of the machine's",
    )
    openai_api_key: str = setting(
        "",
        TEXT,
        "A key for an OpenAI-compatible server; with it a model row is made by itself.",
        env="OPENAI_API_KEY",
        group=MODELS,
        secret=True,
    )
    openai_base_url: str = setting(
        "https://api.openai.com/v1", HTTP, "The base URL of that server.", env="OPENAI_BASE_URL", group=MODELS
    )
    openai_model: str = setting("gpt-4o-mini", TEXT, "The model that is asked there.", env="OPENAI_MODEL", group=MODELS)
    openai_max_tokens: int = setting(
        0,
        whole(0, 1_000_000),
        "Tokens of an answer from there, where a caller names none; 0: its own limit.",
        env="OPENAI_MAX_TOKENS",
        group=MODELS,
    )
    openai_temperature: float | None = setting(
        None,
        number(0, 2),
        "Temperature there, where a caller names none.",
        env="OPENAI_TEMPERATURE",
        group=MODELS,
        shown_default="its own",
    )

    limit_generations: Windows = setting(
        ((60, 60), (1000, 3600)),
        WINDOWS,
        "Generations that one caller may ask for.",
        env="LOQUENT_LIMIT_GENERATIONS",
        group=LIMITS,
        shown_default="60/minute, 1000/hour",
    )
    limit_summaries: Windows = setting(
        ((10, 60), (100, 3600)),
        WINDOWS,
        "Summaries that one caller may ask for.",
        env="LOQUENT_LIMIT_SUMMARIES",
        group=LIMITS,
        shown_default="10/minute, 100/hour",
    )
    limit_messages: Windows = setting(
        ((5, 60),),
        WINDOWS,
        "Messages that one chat session takes.",
        env="LOQUENT_LIMIT_MESSAGES",
        group=LIMITS,
        shown_default="5/minute",
    )
    limit_sessions: Windows = setting(
        ((30, 60), (300, 3600)),
        WINDOWS,
        "Chat sessions that one caller, or one address without a login, may begin.",
        env="LOQUENT_LIMIT_SESSIONS",
        group=LIMITS,
        shown_default="30/minute, 300/hour",
    )
    session_minutes: float = setting(
        30.0,
        number(0.01, 525_600),
        "Minutes without a message after which a chat session expires.",
        env="LOQUENT_SESSION_MINUTES",
        group=LIMITS,
    )
    max_pixels: int = setting(
        50_000_000,
        whole(1, 1_000_000_000),
        "Pixels that an uploaded image may have.",
        env="LOQUENT_MAX_PIXELS",
        group=LIMITS,
    )
    limit_logins: Windows = setting(
        ((10, 60), (60, 3600)),
        WINDOWS,
        "Attempts to log in or register from one address, and to log in to one account.",
        env="LOQUENT_LIMIT_LOGINS",
        group=LIMITS,
        shown_default="10/minute, 60/hour",
    )
    rate_per_minute: int = setting(
        0,
        whole(0, 1_000_000_000),
        "Where set, how many generations a minute one caller may ask for, and how many summaries.",
        env="RATE_LIMIT_PER_MINUTE",
        group=LIMITS,
    )
    rate_per_hour: int = setting(
        0,
        whole(0, 1_000_000_000),
        "Where set, how many generations an hour one caller may ask for, and how many summaries.",
        env="RATE_LIMIT_PER_HOUR",
        group=LIMITS,
    )
    min_text: int = setting(
        50, whole(1, 1_000_000), "Characters that a text to summarise must have.", env="MIN_TEXT_LENGTH", group=LIMITS
    )
    max_text: int = setting(
        50_000,
        whole(1, 10_000_000),
        "Characters that a text to summarise may have; a file may have more.",
        env="MAX_TEXT_LENGTH",
        group=LIMITS,
    )
    max_file_text: int = setting(
        5_000_000,
        whole(1, 100_000_000),
        "Characters that the text of a file may have.",
        env="LOQUENT_MAX_FILE_TEXT",
        group=LIMITS,
    )

    job_slots: int = setting(
        8, whole(1, 1024), "Jobs that one process works on at the same time.", env="LOQUENT_JOB_SLOTS", group=JOBS
    )
    max_pending: int = setting(
        20_000,
        whole(1, 1_000_000),
        "Jobs that may wait, in all; one more is told when to come again (503).",
        env="LOQUENT_MAX_PENDING",
        group=JOBS,
    )
    max_pending_tenant: int = setting(
        10_000,
        whole(1, 1_000_000),
        "Jobs of one tenant that may wait (429). The last tenth of each bound is for those who have few waiting.",
        env="LOQUENT_MAX_PENDING_TENANT",
        group=JOBS,
    )
    max_pending_caller: int = setting(
        5_000,
        whole(1, 1_000_000),
        "Jobs of one caller that may wait (429).",
        env="LOQUENT_MAX_PENDING_CALLER",
        group=JOBS,
    )
    serve_jobs: bool = setting(
        True,
        FLAG,
        "Whether `loquent serve` runs jobs itself, too; off where workers of their own do.",
        env="LOQUENT_SERVE_JOBS",
        group=JOBS,
    )
    lease_seconds: float = setting(
        60.0,
        number(0.1, 3600),
        "Seconds after which a job of a dead worker is taken over.",
        env="LOQUENT_LEASE_SECONDS",
        group=JOBS,
    )
    sweep_seconds: float = setting(
        12.0,
        number(0.05, 3600),
        "Seconds between looks for work that nobody rang for.",
        env="LOQUENT_SWEEP_SECONDS",
        group=JOBS,
    )
    checkpoint_seconds: float = setting(
        1.0,
        number(0.05, 60),
        "Seconds between saves of a running answer's text so far, and until a cancel from elsewhere is heard; jobs are "
        "saved twice as often, for those who follow them elsewhere.",
        env="LOQUENT_CHECKPOINT_SECONDS",
        group=JOBS,
    )
    max_attempts: int = setting(
        3, whole(1, 100), "Runs after which a job that keeps dying is failed.", env="LOQUENT_MAX_ATTEMPTS", group=JOBS
    )
    failpoints: str = setting(
        "",
        TEXT,
        "Places where tests make the process die; never set it in earnest.",
        env="LOQUENT_FAILPOINTS",
        group=JOBS,
    )

    keep_sessions: float = setting(
        184.0,
        number(0, 36_500),
        "Days after its last message for which a chat session and its turns are kept; 0: for ever.",
        env="LOQUENT_KEEP_SESSIONS",
        group=KEEPING,
    )
    keep_generations: float = setting(
        0.0,
        number(0, 36_500),
        "Days for which generations that are no turns of a chat are kept; 0: for ever.",
        env="LOQUENT_KEEP_GENERATIONS",
        group=KEEPING,
    )
    keep_uploads: float = setting(
        0.0,
        number(0, 36_500),
        "Days for which uploaded documents and images are kept; 0: for ever.",
        env="LOQUENT_KEEP_UPLOADS",
        group=KEEPING,
    )
    keep_logs: float = setting(
        30.0,
        number(0, 36_500),
        "Days for which log files that were rotated away are kept; 0: for ever.",
        env="LOQUENT_KEEP_LOGS",
        group=KEEPING,
    )
    sweep_share: float = setting(
        0.2,
        number(0, 1),
        "The share of one kind of data that one pass may remove; more needs: loquent store sweep --force.",
        env="LOQUENT_SWEEP_SHARE",
        group=KEEPING,
    )
    retention_seconds: float = setting(
        3600.0,
        number(0, 864_000),
        "Seconds between the passes that remove what is kept no longer; 0: only by loquent store sweep.",
        env="LOQUENT_RETENTION_SECONDS",
        group=KEEPING,
    )
    blob_grace_seconds: float = setting(
        3600.0,
        number(1, 864_000),
        "Seconds after which an uploaded file without a record, left by a crash, is removed.",
        env="LOQUENT_BLOB_GRACE_SECONDS",
        group=KEEPING,
    )

    log_level: str = setting(
        "",
        LEVEL,
        "What is logged.",
        env="LOQUENT_LOG_LEVEL",
        aliases=("LOG_LEVEL",),
        group=SEEING,
        shown_default="INFO; DEBUG where DEBUG is on",
    )
    debug: bool = setting(False, FLAG, "Whether everything is logged.", env="DEBUG", group=SEEING)
    log_levels: tuple[tuple[str, str], ...] = setting(
        (),
        LOGGERS,
        "Levels of single loggers; loquent.sql says at DEBUG what the database is asked.",
        env="LOQUENT_LOG_LEVELS",
        group=SEEING,
        shown_default="none",
    )
    disable_loggers: tuple[str, ...] = setting(
        (),
        NAMES,
        "Loggers that say nothing.",
        env="DISABLE_LOGGERS",
        group=SEEING,
        shown_default="none",
    )
    log_format: str = setting(
        "auto",
        one_of("auto", "json", "text"),
        "The form of the log; auto: text on a terminal, JSON elsewhere.",
        env="LOQUENT_LOG_FORMAT",
        group=SEEING,
    )
    log_file: str = setting(
        "",
        TEXT,
        "A file that the server and workers log to, as JSON, beside standard output; off: none.",
        env="LOQUENT_LOG_FILE",
        group=SEEING,
        shown_default="{LOQUENT_DATA_DIR}/app.log",
    )
    log_file_size: int = setting(
        10_000_000,
        whole(1_000, 1_000_000_000_000),
        "Bytes after which that file is rotated away.",
        env="LOQUENT_LOG_FILE_SIZE",
        group=SEEING,
    )
    log_files: int = setting(
        5,
        whole(1, 1_000),
        "Files that were rotated away and are kept: app.log.1, the newest, and on.",
        env="LOQUENT_LOG_FILES",
        group=SEEING,
    )
    log_content: bool = setting(
        False,
        FLAG,
        "Whether prompts and answers are logged.",
        env="LOQUENT_LOG_CONTENT",
        aliases=("LOG_CONTENT",),
        group=SEEING,
    )
    metrics: bool = setting(True, FLAG, "Whether /metrics is served.", env="LOQUENT_METRICS", group=SEEING)
    traces: str = setting(
        "auto",
        one_of("auto", "on", "off"),
        "Whether spans are sent to a collector (docs/how-to/traces.md); auto: where one is named.",
        env="LOQUENT_TRACES",
        group=SEEING,
    )
    traces_endpoint: str = setting(
        "",
        TEXT,
        "The collector of traces, by OTLP over HTTP; the other variables of OpenTelemetry (OTEL_…) count as well.",
        env="OTEL_EXPORTER_OTLP_ENDPOINT",
        aliases=("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",),
        group=SEEING,
        shown_default="none; http://localhost:4318 where LOQUENT_TRACES is on",
    )
    traces_to: tuple[str, ...] = setting(
        (),
        HOSTS,
        "Hosts of engines that are told, by a traceparent header, to which trace a call belongs.",
        env="LOQUENT_TRACES_TO",
        group=SEEING,
        shown_default="none",
    )
    worker_port: int = setting(
        0,
        whole(0, 65535),
        "The port on which `loquent worker` tells monitors of itself, at LOQUENT_HOST: /metrics, "
        "/api/v1/health/live and /api/v1/health/ready; 0: none.",
        env="LOQUENT_WORKER_PORT",
        group=SEEING,
    )

    @property
    def log_number(self) -> int:
        """The level as the standard library counts it."""
        return logging.getLevelNamesMapping()[self.log_level or ("DEBUG" if self.debug else "INFO")]

    @property
    def log_path(self) -> Path | None:
        """The file that is logged to; None where there is none."""
        if self.log_file.lower() == "off":
            return None
        return Path(self.log_file).expanduser() if self.log_file else self.data_dir / "app.log"

    @property
    def store_url(self) -> str:
        """The store's URL, the default worked out."""
        if self.store.startswith("dynamodb:") and self.aws_region and "?" not in self.store:
            return f"{self.store}?region={self.aws_region}"
        name = self.db_name if Path(self.db_name).suffix else f"{self.db_name}.db"
        return self.store or f"sqlite:///{self.data_dir.absolute() / name}"

    @property
    def blobs_url(self) -> str:
        """The URL of the blob store, the default worked out."""
        if self.blobs.startswith("s3:"):
            return _in_region(self.blobs, self.aws_region)
        return self.blobs or f"file://{self.data_dir.absolute() / 'blobs'}"

    @property
    def queue_url(self) -> str:
        """The URL of the queue, the region worked out."""
        return _in_region(self.queue, self.aws_region) if self.queue.startswith("sqs:") else self.queue

    @property
    def weights_dir(self) -> Path:
        """Where model weights are kept, the default worked out."""
        return self.models_dir or self.data_dir / "models"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in ("localhost", "::1", "[::1]") or self.host.startswith("127.")

    @property
    def takes_anonymous(self) -> bool:
        """Whether callers without an account are served."""
        is_private = self.is_loopback and not self.trusted_proxies
        return self.anonymous == "on" or (self.anonymous == "auto" and is_private)

    @property
    def host_names(self) -> tuple[str, ...]:
        """Host names that requests may carry; * is any."""
        return self.allowed_hosts or (("localhost", "127.0.0.1", "[::1]", "loquent") if self.is_loopback else ("*",))


def read(environ: Mapping[str, str]) -> Settings:
    """The settings that an environment holds; the native name goes before its aliases, an empty value is none.

    Raises Misconfigured with one line: which variable, what it holds (a secret is not shown), what it takes.
    """
    values: dict[str, Any] = {}
    for each in fields(Settings):
        for name, text in _said(each, environ):
            if not _is_for_later(each, name, text):
                values[each.name] = _value(name, text, each.metadata)
                break
    found = Settings(**values)
    if found.min_text > found.max_text:
        raise Misconfigured(
            f"MIN_TEXT_LENGTH holds {found.min_text}; it takes at most MAX_TEXT_LENGTH, {found.max_text}"
        )
    return found


def passed_over(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable of a family that names what this version does not carry: what is used in its place."""
    found = read(environ)
    used = {
        "store": f"records are kept in {found.store_url.partition('?')[0]}",
        "queue": f"workers are told of jobs by {without_password(found.queue)}",
        "limiter": f"rates are counted in {found.limiter}",
        "blobs": f"uploaded files are kept in {found.blobs_url}",
    }
    return [
        f"{name} names {_scheme(text)}, which this version does not carry; instead {used[each.name]}"
        for each in fields(Settings)
        for name, text in _said(each, environ)
        if _is_for_later(each, name, text)
    ] + [f"{name} is not used: {why}" for name, why in ELSEWHERE.items() if environ.get(name, "").strip()]


def _said(field: Field[Any], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The names of a setting that hold something, with what they hold."""
    for name in (field.metadata["env"], *field.metadata["aliases"]):
        if text := environ.get(name, "").strip():
            yield name, WRITTEN.get(name, "{}").format(text)


def _is_for_later(field: Field[Any], name: str, text: str) -> bool:
    meta, scheme = field.metadata, _scheme(text)
    schemes: tuple[str, ...] = meta["kind"].schemes
    return bool(schemes) and name != meta["env"] and scheme in LATER and scheme not in schemes


def _scheme(text: str) -> str:
    return text.partition(":")[0].partition("+")[0].lower()


def _value(name: str, text: str, meta: Mapping[str, Any]) -> Any:
    try:
        return meta["kind"].read(text)
    except ValueError:
        shown = f"a value of {len(text.encode())} bytes" if meta["secret"] else repr(without_password(text)[:200])
        raise Misconfigured(f"{name} holds {shown}; it takes {meta['takes']}") from None


def _in_region(url: str, region: str) -> str:
    if not region or re.search("[?&]region=", url):
        return url
    return f"{url}{'&' if '?' in url else '?'}region={region}"
