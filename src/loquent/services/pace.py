"""Pace: how often things happen to what runs, and how often it is tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things happen, in seconds, and how often a job is tried."""

    lease: float = 60.0
    checkpoint: float = 1.0
    max_attempts: int = 3
    again: float = 0.25  # before a write that failed is tried anew; twice as long each time, up to 16 times
