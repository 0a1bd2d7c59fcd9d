"""Counters and histograms for what every request counts: an addition each, in the one event loop, without a lock.

The library's own take a lock and a timestamp for each; what Prometheus reads is the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily


class Count:
    """One number that only grows."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add so many."""
        self.n += amount


class Tally:
    """A counter by labels."""

    def __init__(self, name: str, about: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name, self._about, self._names = name, about, labels
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The count with these labels."""
        return self._counts.setdefault(values, Count())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See prometheus_client.registry.Collector."""
        family = CounterMetricFamily(self._name, self._about, labels=self._names)
        for values, count in self._counts.items():
            family.add_metric(values, count.n)
        yield family


class Times:
    """How often something took how long."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds


class Spread:
    """A histogram by labels."""

    def __init__(
        self, name: str, about: str, labels: Sequence[str], *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._about, self._names, self._buckets = name, about, labels, buckets
        self._times: dict[tuple[str, ...], Times] = {}
        registry.register(self)

    def labels(self, *values: str) -> Times:
        """The times with these labels."""
        return self._times.setdefault(values, Times(self._buckets))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See prometheus_client.registry.Collector."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._names)
        bounds = [*(str(float(bound)) for bound in self._buckets), "+Inf"]
        for values, times in self._times.items():
            heaped = list(zip(bounds, accumulate(times.counts), strict=True))
            family.add_metric(values, heaped, times.sum)
        yield family
