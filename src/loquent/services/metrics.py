"""What is counted while the product runs, for Prometheus; one registry, names as its conventions want them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

registry = CollectorRegistry()
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

requests = Counter("loquent_requests", "Requests answered.", ("route", "status"), registry=registry)
request_seconds = Histogram(
    "loquent_request_seconds", "Time to the end of the answer.", ("route",), buckets=SECONDS, registry=registry
)
generations = Counter("loquent_generations", "Generations that ended.", ("model", "status"), registry=registry)
first_seconds = Histogram(
    "loquent_first_chunk_seconds",
    "Time to the first piece of an answer.",
    ("model",),
    buckets=SECONDS,
    registry=registry,
)
tokens = Counter("loquent_tokens", "Tokens, by direction.", ("model", "direction"), registry=registry)
running = Gauge("loquent_running_generations", "Generations that run in this process now.", registry=registry)
faults = Counter(
    "loquent_engine_faults", "Calls of engines that failed, by our code.", ("model", "code"), registry=registry
)
limited = Counter("loquent_limited", "Requests refused for their rate.", ("rule",), registry=registry)
fenced = Counter("loquent_fenced_writes", "Results dropped because another worker held the job.", registry=registry)
claimed = Counter("loquent_claimed_jobs", "Jobs taken up.", registry=registry)
retried = Counter("loquent_retried_jobs", "Jobs put back after a passing fault.", registry=registry)
swept = Counter("loquent_swept", "Records and files whose time to be kept was over.", ("kind",), registry=registry)
oldest_pending = Gauge("loquent_oldest_pending_seconds", "Age of the oldest job that waits.", registry=registry)


@lru_cache(maxsize=10_000)
def meter(metric: Any, *labels: str) -> Any:
    """The metric with these labels, found quickly the second time."""
    return metric.labels(*labels)
