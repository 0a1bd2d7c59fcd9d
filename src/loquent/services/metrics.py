"""What is counted while the product runs, for Prometheus; one registry, names as its conventions want them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import Metric

from loquent import __version__
from loquent.domain.generations import Outcome
from loquent.services.tallies import Count, Spread, Tally

registry = CollectorRegistry()
CONTENT_TYPE = "text/plain; version=0.0.4"
MILLION = 1_000_000  # a record's cost is in millionths
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
cost = Tally("loquent_cost", "What answers cost, in the unit of the models' prices.", ("model",), registry=registry)
in_flight = Gauge("loquent_requests_in_flight", "Requests that are being answered now.", registry=registry)
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
refused_jobs = Counter("loquent_refused_jobs", "Jobs refused because too many wait.", registry=registry)
claimed = Counter("loquent_claimed_jobs", "Jobs taken up.", registry=registry)
lost_leases = Counter(
    "loquent_lost_leases",
    "Runs taken over here because the lease had run out, or its process was gone; not those after a fault.",
    registry=registry,
)
jobs = Tally(
    "loquent_jobs",
    "Runs of jobs that ended: completed, failed, cancelled, retried, released by a stop, fenced.",
    ("outcome",),
    registry=registry,
)
OUTCOMES = ("completed", "failed", "cancelled", "retried", "released", "fenced")
job_wait_seconds = Spread(
    "loquent_job_wait_seconds",
    "From the asking for a job to its first run.",
    (),
    buckets=(*SECONDS[4:], 900, 3600),
    registry=registry,
)
retried = Counter("loquent_retried_jobs", "Jobs put back after a passing fault.", registry=registry)
swept = Counter("loquent_swept", "Records and files whose time to be kept was over.", ("kind",), registry=registry)
sweeps = Tally(
    "loquent_sweeps", "Passes that remove what is kept no longer: done, failed.", ("outcome",), registry=registry
)
loop_lag = Spread(
    "loquent_loop_lag_seconds",
    "How late the event loop comes to what is due, looked at four times a second.",
    (),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=registry,
)
Gauge("loquent_build_info", "The version that runs.", ("version",), registry=registry).labels(__version__).set(1)


for outcome in OUTCOMES:  # from 0 on: a counter that begins at 1 has not grown, as Prometheus sees it
    jobs.labels(outcome)
for outcome in ("done", "failed"):
    sweeps.labels(outcome)


class Standing:
    """Families that are made when somebody looks: what they tell costs a request nothing."""

    def __init__(self) -> None:
        self.families: Callable[[], Iterable[Metric]] = tuple

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client.registry.Collector."""
        yield from self.families()


standing = Standing()
registry.register(standing)


@cache
def of_the_process() -> None:
    """From now on tell of the process, too: its processor time, memory, open files, start."""
    ProcessCollector(registry=registry)


def page() -> bytes:
    """All metrics in Prometheus' text form, of CONTENT_TYPE."""
    return generate_latest(registry)


class Ends:
    """What is counted at the end of each generation of one model, found once."""

    __slots__ = ("_cost", "_first", "_in", "_model", "_out", "_statuses")

    def __init__(self, model: str) -> None:
        self._model = model
        self._statuses: dict[str, Count] = {}
        self._in, self._out = tokens.labels(model, "in"), tokens.labels(model, "out")
        self._cost, self._first = cost.labels(model), first_seconds.labels(model)

    def count(self, outcome: Outcome, first: float | None) -> None:
        """One more. ``first``: seconds to its first piece, where there was one."""
        status = self._statuses.get(outcome.status)
        if status is None:
            status = self._statuses[outcome.status] = generations.labels(self._model, outcome.status)
        status.n += 1
        self._in.n += outcome.prompt_tokens
        self._out.n += outcome.completion_tokens
        self._cost.n += outcome.cost / MILLION
        if first is not None:
            self._first.observe(first)


ends = lru_cache(maxsize=1_000)(Ends)
"""The Ends of a model, by its name."""


@lru_cache(maxsize=10_000)
def meter(metric: Any, *labels: str) -> Any:
    """The metric with these labels, found quickly the second time."""
    return metric.labels(*labels)
