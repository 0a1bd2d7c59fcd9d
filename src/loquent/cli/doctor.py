"""``loquent doctor``: what is configured, what answers, what is missing, and what to do about it."""

from __future__ import annotations


def doctor() -> None:
    """Say what is configured, what answers and what is missing, and what to do about it."""
