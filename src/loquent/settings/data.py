"""Where data is kept: records, files, messages, counts, answers; and the keys to them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from loquent.domain.kinds import DATABASE, FLAG, FOLDER, SIZE, TEXT, number, setting, url, whole

GROUP = "Data"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Data:
    """Where everything is kept."""

    data_dir: Path = setting(
        Path("data"),
        FOLDER,
        "Where everything local is kept: database, models, the secret.",
        env="LOQUENT_DATA_DIR",
        group=GROUP,
    )
    store: str = setting(
        "",
        url("sqlite", "postgresql", "postgres", "memory", "dynamodb"),
        "Where records are kept.",
        env="LOQUENT_STORE",
        aliases=("DATABASE_URL", "MONGO_URI"),
        group=GROUP,
        shown_default="sqlite:///{LOQUENT_DATA_DIR}/{DB_NAME}",
    )
    db_name: str = setting(
        "loquent.db",
        DATABASE,
        "The name of the SQLite file in the data folder, or a path from there.",
        env="DB_NAME",
        group=GROUP,
    )
    queue: str = setting(
        "local:",
        url("local", "redis", "rediss", "amqp", "amqps", "pyamqp", "sqs"),
        "How workers are told of jobs: within a process, or by Celery over that broker.",
        env="LOQUENT_QUEUE",
        aliases=("CELERY_BROKER_URL",),
        group=GROUP,
    )
    limiter: str = setting(
        "memory:",
        url("memory", "redis", "rediss"),
        "Where rates are counted.",
        env="LOQUENT_LIMITER",
        aliases=("REDIS_URL",),
        group=GROUP,
    )
    cache: str = setting(
        "memory:",
        url("memory", "redis", "rediss", word="off"),
        "Where answers are kept that would come out the same again (temperature 0, or asked for), for all callers of a "
        "tenant; one in Redis is shared by all processes.",
        env="LOQUENT_CACHE",
        group=GROUP,
    )
    cache_seconds: float = setting(
        3600.0,
        number(0.05, 2_592_000),
        "Seconds for which an answer is kept there.",
        env="LOQUENT_CACHE_SECONDS",
        group=GROUP,
    )
    cache_size: int = setting(
        64_000_000,
        whole(10_000, 1_000_000_000_000),
        "Bytes of memory that kept answers may take in one process.",
        env="LOQUENT_CACHE_SIZE",
        group=GROUP,
    )
    free_space: int = setting(
        64 << 20,
        SIZE,
        "Bytes that stay free on the disks of database and uploads: with less nothing new is begun (507). 0: any.",
        env="LOQUENT_FREE_SPACE",
        group=GROUP,
        shown_default="64MB",
    )
    blobs: str = setting(
        "",
        url("file", "s3"),
        "Where uploaded files are kept: a folder, or a bucket as in s3://bucket/prefix (docs/how-to/files-in-s3.md).",
        env="LOQUENT_BLOBS",
        aliases=("AWS_BUCKET_NAME",),
        group=GROUP,
        shown_default="file:///{LOQUENT_DATA_DIR}/blobs",
    )
    blobs_presign: bool = setting(
        False,
        FLAG,
        "Whether downloads are sent on to the bucket of an s3: URL by a link that is good for minutes.",
        env="LOQUENT_BLOBS_PRESIGN",
        group=GROUP,
    )
    aws_region: str = setting(
        "",
        TEXT,
        "The region of a backend at AWS, where its URL names none.",
        env="AWS_REGION",
        aliases=("REGION_NAME",),
        group=GROUP,
        shown_default="as the AWS library finds it",
    )
    aws_key_id: str = setting(
        "",
        TEXT,
        "The key to backends at AWS.",
        env="AWS_ACCESS_KEY_ID",
        aliases=("AWSAccessKeyId",),
        group=GROUP,
        secret=True,
        shown_default="as the AWS library finds it",
    )
    aws_secret_key: str = setting(
        "",
        TEXT,
        "The secret of that key.",
        env="AWS_SECRET_ACCESS_KEY",
        aliases=("AWSSecretKey",),
        group=GROUP,
        secret=True,
        shown_default="as the AWS library finds it",
    )

    @property
    def store_url(self) -> str:
        """The store's URL, the default worked out."""
        if self.store.startswith("dynamodb:") and self.aws_region and "?" not in self.store:
            return f"{self.store}?region={self.aws_region}"
        name = self.db_name if Path(self.db_name).suffix else f"{self.db_name}.db"
        return self.store or f"sqlite:///{self.data_dir.absolute() / name}"

    @property
    def is_in_memory(self) -> bool:
        """Whether records are this process's alone, and gone with it."""
        return self.store_url.startswith("memory")

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


def _in_region(url: str, region: str) -> str:
    if not region or re.search("[?&]region=", url):
        return url
    return f"{url}{'&' if '?' in url else '?'}region={region}"
