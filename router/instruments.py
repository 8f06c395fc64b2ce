"""Counters and histograms for the path of a request: plain numbers, read when somebody scrapes.

They stand in for prometheus_client's own, whose locks and label look-ups cost several microseconds
a request. All use is on one event loop, so that none is needed here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


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


class Counter(Collector):
    """Counts by label values; the label values must be of bounded number."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._series: dict[tuple[str, ...], Count] = {}
        if not labels:
            self._series[()] = Count()
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The series of these label values; it is shown from now on."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = Count()
        return found

    def inc(self, amount: float = 1.0) -> None:
        """Of a counter without labels."""
        self._series[()].value += amount

    def describe(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._series.items():
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
        self._series: dict[tuple[str, ...], Spread] = {}
        if not labels:
            self._series[()] = Spread(self._bounds)
        registry.register(self)

    def labels(self, *values: str) -> Spread:
        """The series of these label values; it is shown from now on."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = Spread(self._bounds)
        return found

    def observe(self, value: float) -> None:
        """Of a histogram without labels."""
        self._series[()].observe(value)

    def describe(self) -> Iterable[Metric]:
        return [HistogramMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._series.items():
            below, buckets = 0, []
            for bound, count in zip((*self._bounds, float("inf")), series.counts, strict=True):
                below += count
                upto = floatToGoString(bound)  # type: ignore[no-untyped-call]  # not typed there
                buckets.append((upto, float(below)))
            family.add_metric(values, buckets, series.sum)
        yield family
