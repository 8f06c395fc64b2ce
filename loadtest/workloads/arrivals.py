"""When requests or sessions begin: Poisson, at one rate or along a curve.

The curve's format is ServeGen's fleet rate: CSV with the columns `t_s` and `rate_rps`, each rate
holding from its time to the next one's. Within a bin arrivals are Poisson.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from loadtest.workloads.sources import broken, lines_of
from rhizome.errors import TraceError

_HEADER = ["t_s", "rate_rps"]


class Arrivals(Protocol):
    """A seeded point process on the time from 0."""

    @property
    def mean_rate_per_s(self) -> float: ...

    def times(self, rng: Random, share: float = 1.0) -> Iterator[float]:
        """Ascending times in seconds, of `share` of the arrivals; may be endless."""
        ...


@dataclass(frozen=True)
class Poisson:
    """The same rate for ever."""

    rate_per_s: float

    @property
    def mean_rate_per_s(self) -> float:
        return self.rate_per_s

    def times(self, rng: Random, share: float = 1.0) -> Iterator[float]:
        now_s = 0.0
        while True:
            now_s += rng.expovariate(self.rate_per_s * share)
            yield now_s


@dataclass(frozen=True)
class RateCurve:
    """Rates that hold from `starts_s[i]` on; the last one until `end_s`, where arrivals end."""

    starts_s: tuple[float, ...]
    rates_per_s: tuple[float, ...]
    end_s: float

    @staticmethod
    def read(path: Path) -> RateCurve:
        """Raises `TraceError` with the line that is wrong."""
        starts_s: list[float] = []
        rates_per_s: list[float] = []
        for number, text in lines_of(path):
            cells = [cell.strip() for cell in text.decode("utf-8", "replace").split(",")]
            if not starts_s and cells == _HEADER:
                continue
            start_s, rate = _cells(path, number, cells)
            if starts_s and start_s <= starts_s[-1]:
                raise broken(path, number, f"time goes back: {start_s:g} s after {starts_s[-1]:g}")
            starts_s.append(start_s)
            rates_per_s.append(rate)
        if len(starts_s) < 2:
            raise TraceError(f"{path} holds fewer than two rates")
        if not any(rates_per_s):
            raise TraceError(f"{path} holds no rate above 0")
        begin_s = starts_s[0]
        return RateCurve(
            tuple(start_s - begin_s for start_s in starts_s),
            tuple(rates_per_s),
            2 * starts_s[-1] - starts_s[-2] - begin_s,
        )

    @property
    def mean_rate_per_s(self) -> float:
        ends_s = (*self.starts_s[1:], self.end_s)
        arrivals = sum(
            rate * (end_s - start_s)
            for start_s, end_s, rate in zip(self.starts_s, ends_s, self.rates_per_s, strict=True)
        )
        return arrivals / self.end_s

    def scaled(self, rate_per_s: float | None, rate_scale: float, time_scale: float) -> RateCurve:
        """The curve with its time passing `time_scale` times as fast, then either at the mean rate
        `rate_per_s` or at `rate_scale` times its own rates; time alone changes no rate."""
        factor = rate_scale if rate_per_s is None else rate_per_s / self.mean_rate_per_s
        return RateCurve(
            tuple(start_s / time_scale for start_s in self.starts_s),
            tuple(rate * factor for rate in self.rates_per_s),
            self.end_s / time_scale,
        )

    def times(self, rng: Random, share: float = 1.0) -> Iterator[float]:
        ends_s = (*self.starts_s[1:], self.end_s)
        for start_s, end_s, rate in zip(self.starts_s, ends_s, self.rates_per_s, strict=True):
            if rate * share <= 0.0:
                continue
            now_s = start_s + rng.expovariate(rate * share)
            while now_s < end_s:
                yield now_s
                now_s += rng.expovariate(rate * share)


def _cells(path: Path, number: int, cells: list[str]) -> tuple[float, float]:
    try:
        start_s, rate = map(float, cells)
    except ValueError as error:
        raise broken(path, number, "not two numbers, t_s and rate_rps") from error
    if not (math.isfinite(start_s) and math.isfinite(rate) and start_s >= 0 and rate >= 0):
        raise broken(path, number, "t_s and rate_rps must be finite and not negative")
    return start_s, rate
