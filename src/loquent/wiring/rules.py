"""The numbers of the settings, as the services take them: rates, bounds, times."""

from __future__ import annotations

from loquent.ports.limiter import Rate
from loquent.services import limits
from loquent.services.backlog import Bounds
from loquent.services.pace import Pace
from loquent.services.retention import Rules
from loquent.settings import Settings


def rates(found: Settings) -> dict[str, tuple[Rate, ...]]:
    """The rates of each rule; the two plain variables, where set, are the minute and the hour of both kinds of work."""
    plain = {seconds: count for count, seconds in ((found.rate_per_minute, 60), (found.rate_per_hour, 3600)) if count}
    own = {
        limits.GENERATIONS: found.limit_generations,
        limits.SUMMARIES: found.limit_summaries,
        limits.LOGINS: found.limit_logins,
        limits.SESSIONS: found.limit_sessions,
        limits.MESSAGES: found.limit_messages,
    }
    ruled = (limits.GENERATIONS, limits.SUMMARIES)
    return {
        rule: tuple(
            Rate(count, seconds)
            for seconds, count in ({each[1]: each[0] for each in windows} | (plain if rule in ruled else {})).items()
        )
        for rule, windows in own.items()
    }


def pace(found: Settings) -> Pace:
    """How long a run may be silent, and how often it is tried."""
    return Pace(lease=found.lease_seconds, checkpoint=found.checkpoint_seconds, max_attempts=found.max_attempts)


def bounds(found: Settings) -> Bounds:
    """How many jobs may wait."""
    return Bounds(found.max_pending, found.max_pending_tenant, found.max_pending_caller)


def keeping(found: Settings) -> Rules:
    """What is removed when."""
    return Rules(
        sessions=found.keep_sessions,
        generations=found.keep_generations,
        uploads=found.keep_uploads,
        logs=found.keep_logs,
        session_minutes=found.session_minutes,
        blob_grace=found.blob_grace_seconds,
        share=found.sweep_share,
    )
