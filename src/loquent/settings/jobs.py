"""How jobs are run: how many, how long one may be silent, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass

from loquent.domain.kinds import FLAG, TEXT, number, setting, whole

GROUP = "Jobs"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Jobs:
    """How jobs are taken, held and given up."""

    job_slots: int = setting(
        8, whole(1, 1024), "Jobs that one process works on at the same time.", env="LOQUENT_JOB_SLOTS", group=GROUP
    )
    max_pending: int = setting(
        20_000,
        whole(1, 1_000_000),
        "Jobs that may wait, in all; one more is told when to come again (503).",
        env="LOQUENT_MAX_PENDING",
        group=GROUP,
    )
    max_pending_tenant: int = setting(
        10_000,
        whole(1, 1_000_000),
        "Jobs of one tenant that may wait (429). The last tenth of each bound is for those who have few waiting.",
        env="LOQUENT_MAX_PENDING_TENANT",
        group=GROUP,
    )
    max_pending_caller: int = setting(
        5_000,
        whole(1, 1_000_000),
        "Jobs of one caller that may wait (429).",
        env="LOQUENT_MAX_PENDING_CALLER",
        group=GROUP,
    )
    serve_jobs: bool = setting(
        True,
        FLAG,
        "Whether `loquent serve` runs jobs itself, too; off where workers of their own do.",
        env="LOQUENT_SERVE_JOBS",
        group=GROUP,
    )
    lease_seconds: float = setting(
        60.0,
        number(0.1, 3600),
        "Seconds after which a job of a dead worker is taken over.",
        env="LOQUENT_LEASE_SECONDS",
        group=GROUP,
    )
    sweep_seconds: float = setting(
        12.0,
        number(0.05, 3600),
        "Seconds between looks for work that nobody rang for.",
        env="LOQUENT_SWEEP_SECONDS",
        group=GROUP,
    )
    checkpoint_seconds: float = setting(
        1.0,
        number(0.05, 60),
        "Seconds between saves of a running answer's text so far, and until a cancel from elsewhere is heard; jobs are "
        "saved twice as often, for those who follow them elsewhere.",
        env="LOQUENT_CHECKPOINT_SECONDS",
        group=GROUP,
    )
    max_attempts: int = setting(
        3, whole(1, 100), "Runs after which a job that keeps dying is failed.", env="LOQUENT_MAX_ATTEMPTS", group=GROUP
    )
    failpoints: str = setting(
        "",
        TEXT,
        "Places where tests make the process die; never set it in earnest.",
        env="LOQUENT_FAILPOINTS",
        group=GROUP,
    )
