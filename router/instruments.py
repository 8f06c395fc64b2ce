"""Counters and histograms for the path of a request: plain numbers, read when somebody scrapes.

They stand in for prometheus_client's own, whose locks and label look-ups cost several microseconds
a request. All use is on one event loop, so that none is needed here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

S = TypeVar("S")


class Count:
    """One time series that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Spread:
    """One distribution."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class _Series(dict[tuple[str, ...], S]):
    """Series by label values; one that is asked for is shown from then on."""

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make

    def __missing__(self, values: tuple[str, ...]) -> S:
        found = self[values] = self._make()
        return found


class Counter(Collector):
    """Counts by label values; the label values must be of bounded number."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self.series = _Series(Count)
        """By label values."""
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The series of these label values."""
        return self.series[values]

    def inc(self, amount: float = 1.0) -> None:
        """Of a counter without labels."""
        self.series[()].value += amount

    def describe(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self.series.items():
            family.add_metric(values, series.value)
        yield family


class Histogram(Collector):
    """Distributions by label values, over buckets with these upper bounds."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = [float(bound) for bound in buckets]
        self.series = _Series(partial(Spread, self._bounds))
        """By label values."""
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Spread:
        """The series of these label values."""
        return self.series[values]

    def observe(self, value: float) -> None:
        """Of a histogram without labels."""
        self.series[()].observe(value)

    def describe(self) -> Iterable[Metric]:
        return [HistogramMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self.series.items():
            below, buckets = 0, []
            for bound, count in zip((*self._bounds, float("inf")), series.counts, strict=True):
                below += count
                upto = floatToGoString(bound)  # type: ignore[no-untyped-call]  # not typed there
                buckets.append((upto, float(below)))
            family.add_metric(values, buckets, series.sum)
        yield family
