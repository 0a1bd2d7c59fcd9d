"""How much callers may ask for: rates, and sizes of what they send."""

from __future__ import annotations

from dataclasses import dataclass

from loquent.domain.kinds import WINDOWS, Windows, number, setting, whole

GROUP = "Limits"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Limits:
    """What one caller may ask for."""

    limit_generations: Windows = setting(
        ((60, 60), (1000, 3600)),
        WINDOWS,
        "Generations that one caller may ask for.",
        env="LOQUENT_LIMIT_GENERATIONS",
        group=GROUP,
        shown_default="60/minute, 1000/hour",
    )
    limit_summaries: Windows = setting(
        ((10, 60), (100, 3600)),
        WINDOWS,
        "Summaries that one caller may ask for.",
        env="LOQUENT_LIMIT_SUMMARIES",
        group=GROUP,
        shown_default="10/minute, 100/hour",
    )
    limit_messages: Windows = setting(
        ((5, 60),),
        WINDOWS,
        "Messages that one chat session takes.",
        env="LOQUENT_LIMIT_MESSAGES",
        group=GROUP,
        shown_default="5/minute",
    )
    limit_sessions: Windows = setting(
        ((30, 60), (300, 3600)),
        WINDOWS,
        "Chat sessions that one caller, or one address without a login, may begin.",
        env="LOQUENT_LIMIT_SESSIONS",
        group=GROUP,
        shown_default="30/minute, 300/hour",
    )
    session_minutes: float = setting(
        30.0,
        number(0.01, 525_600),
        "Minutes without a message after which a chat session expires.",
        env="LOQUENT_SESSION_MINUTES",
        group=GROUP,
    )
    max_pixels: int = setting(
        50_000_000,
        whole(1, 1_000_000_000),
        "Pixels that an uploaded image may have.",
        env="LOQUENT_MAX_PIXELS",
        group=GROUP,
    )
    limit_logins: Windows = setting(
        ((10, 60), (60, 3600)),
        WINDOWS,
        "Attempts to log in or register from one address, and to log in to one account.",
        env="LOQUENT_LIMIT_LOGINS",
        group=GROUP,
        shown_default="10/minute, 60/hour",
    )
    rate_per_minute: int = setting(
        0,
        whole(0, 1_000_000_000),
        "Where set, how many generations a minute one caller may ask for, and how many summaries.",
        env="RATE_LIMIT_PER_MINUTE",
        group=GROUP,
    )
    rate_per_hour: int = setting(
        0,
        whole(0, 1_000_000_000),
        "Where set, how many generations an hour one caller may ask for, and how many summaries.",
        env="RATE_LIMIT_PER_HOUR",
        group=GROUP,
    )
    min_text: int = setting(
        50, whole(1, 1_000_000), "Characters that a text to summarise must have.", env="MIN_TEXT_LENGTH", group=GROUP
    )
    max_text: int = setting(
        50_000,
        whole(1, 10_000_000),
        "Characters that a text to summarise may have; a file may have more.",
        env="MAX_TEXT_LENGTH",
        group=GROUP,
    )
    max_file_text: int = setting(
        5_000_000,
        whole(1, 100_000_000),
        "Characters that the text of a file may have.",
        env="LOQUENT_MAX_FILE_TEXT",
        group=GROUP,
    )
