"""How many threads an embedded model has where the deployment does not say."""

from __future__ import annotations

import os


def default_threads() -> int:
    """All cores but one. Its threads wait for each other by spinning, some hundred times a token: where another
    process wants the same core, an answer takes ten times as long, and the server needs one itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)
