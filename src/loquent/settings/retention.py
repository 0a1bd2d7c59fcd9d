"""How long data is kept, and how it is removed."""

from __future__ import annotations

from dataclasses import dataclass

from loquent.domain.kinds import number, setting

GROUP = "Retention"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Retention:
    """What is removed when."""

    keep_sessions: float = setting(
        184.0,
        number(0, 36_500),
        "Days after its last message for which a chat session and its turns are kept; 0: for ever.",
        env="LOQUENT_KEEP_SESSIONS",
        group=GROUP,
    )
    keep_generations: float = setting(
        0.0,
        number(0, 36_500),
        "Days for which generations that are no turns of a chat are kept; 0: for ever.",
        env="LOQUENT_KEEP_GENERATIONS",
        group=GROUP,
    )
    keep_uploads: float = setting(
        0.0,
        number(0, 36_500),
        "Days for which uploaded documents and images are kept; 0: for ever.",
        env="LOQUENT_KEEP_UPLOADS",
        group=GROUP,
    )
    keep_logs: float = setting(
        30.0,
        number(0, 36_500),
        "Days for which log files that were rotated away are kept; 0: for ever.",
        env="LOQUENT_KEEP_LOGS",
        group=GROUP,
    )
    sweep_share: float = setting(
        0.2,
        number(0, 1),
        "The share of one kind of data that one pass may remove; more needs: loquent store sweep --force.",
        env="LOQUENT_SWEEP_SHARE",
        group=GROUP,
    )
    retention_seconds: float = setting(
        3600.0,
        number(0, 864_000),
        "Seconds between the passes that remove what is kept no longer; 0: only by loquent store sweep.",
        env="LOQUENT_RETENTION_SECONDS",
        group=GROUP,
    )
    blob_grace_seconds: float = setting(
        3600.0,
        number(1, 864_000),
        "Seconds after which an uploaded file without a record, left by a crash, is removed.",
        env="LOQUENT_BLOB_GRACE_SECONDS",
        group=GROUP,
    )
