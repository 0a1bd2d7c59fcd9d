"""What is counted while the product runs, for Prometheus; one registry, names as its conventions want them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily

from loquent.services.tallies import Spread, Tally

registry = CollectorRegistry()
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

requests = Tally("loquent_requests", "Requests answered.", ("route", "status"), registry=registry)
request_seconds = Spread(
    "loquent_request_seconds", "Time to the end of the answer.", ("route",), buckets=SECONDS, registry=registry
)
generations = Tally("loquent_generations", "Generations that ended.", ("model", "status"), registry=registry)
first_seconds = Spread(
    "loquent_first_chunk_seconds",
    "Time to the first piece of an answer.",
    ("model",),
    buckets=SECONDS,
    registry=registry,
)
tokens = Tally("loquent_tokens", "Tokens, by direction.", ("model", "direction"), registry=registry)
running = Gauge("loquent_running_generations", "Generations that run in this process now.", registry=registry)
faults = Counter(
    "loquent_engine_faults", "Calls of engines that failed, by our code.", ("model", "code"), registry=registry
)
fallbacks = Counter(
    "loquent_fallbacks", "Calls answered in another's place.", ("model", "answered_by"), registry=registry
)
cached = Counter(
    "loquent_cached_answers", "Requests whose answer may be kept: hit, shared, miss.", ("outcome",), registry=registry
)
cache_faults = Counter(
    "loquent_cache_faults", "Calls of the cache that came to nothing, by what was wanted.", ("call",), registry=registry
)
limited = Counter("loquent_limited", "Requests refused for their rate.", ("rule",), registry=registry)
fenced = Counter("loquent_fenced_writes", "Results dropped because another worker held the job.", registry=registry)
claimed = Counter("loquent_claimed_jobs", "Jobs taken up.", registry=registry)
retried = Counter("loquent_retried_jobs", "Jobs put back after a passing fault.", registry=registry)
swept = Counter("loquent_swept", "Records and files whose time to be kept was over.", ("kind",), registry=registry)
oldest_pending = Gauge("loquent_oldest_pending_seconds", "Age of the oldest job that waits.", registry=registry)


class Rows:
    """How each row of the models does, found out when somebody looks: it costs a request nothing."""

    def __init__(self) -> None:
        self.standing: Callable[[], Iterable[tuple[str, int, int]]] = tuple  # label, state of the breaker, in line

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See prometheus_client.registry.Collector."""
        state = GaugeMetricFamily(
            "loquent_breaker_state", "Whether engines are asked: 0 closed, 1 half open, 2 open.", labels=("model",)
        )
        line = GaugeMetricFamily("loquent_waiting_calls", "Calls that wait for a slot of an engine.", labels=("model",))
        for label, number, waiting in self.standing():
            state.add_metric((label,), number)
            line.add_metric((label,), waiting)
        yield from (state, line)


rows = Rows()
registry.register(rows)


@lru_cache(maxsize=10_000)
def meter(metric: Any, *labels: str) -> Any:
    """The metric with these labels, found quickly the second time."""
    return metric.labels(*labels)
