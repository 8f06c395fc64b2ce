"""How many workers a workload needs, and how much load a fleet carries: searches over simulations.

Pure but for what it is given to ask: `measure` plays one simulation and returns what it showed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """What a fleet must keep."""

    ttft_ms_p99: float
    completed_share: float = 0.99
    """Of all requests; a fleet that refuses the rest keeps no promise."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one simulation showed."""

    workers: int
    rate_per_s: float
    ttft_ms_p99: float | None
    """None where nothing was answered."""
    completed_share: float
    goodput_share: float

    def keeps(self, promise: Promise) -> bool:
        return (
            self.ttft_ms_p99 is not None
            and self.ttft_ms_p99 <= promise.ttft_ms_p99
            and self.completed_share >= promise.completed_share
        )


@dataclass(frozen=True, slots=True)
class Sizing:
    """The answer, with everything that was tried in its order."""

    workers: int | None
    """The smallest number that keeps the promise; None if `workers_max` does not."""
    tried: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class RateKnee:
    """How much load a fleet carries, with everything that was tried in its order."""

    rate_scale: float | None
    """The highest one found that keeps the promise; None if the lowest does not."""
    is_beyond: bool
    """Every one that was tried keeps it: the knee is further on."""
    tried: tuple[tuple[float, Shown], ...]


def smallest_fleet(
    measure: Callable[[int], Shown], promise: Promise, begin: int, workers_max: int
) -> Sizing:
    """Doubles from `begin` until the promise is kept, then halves the interval.

    More workers are taken to keep what fewer kept; the number below the answer was tried and did
    not. At most `2 * log2(workers_max) + 2` simulations.
    """
    assert 1 <= begin <= workers_max
    tried: list[Shown] = []

    def keeps(workers: int) -> bool:
        tried.append(measure(workers))
        return tried[-1].keeps(promise)

    too_few, enough = 0, begin
    while not keeps(enough):
        if enough == workers_max:
            return Sizing(None, tuple(tried))
        too_few, enough = enough, min(2 * enough, workers_max)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if keeps(middle):
            enough = middle
        else:
            too_few = middle
    return Sizing(enough, tuple(tried))


def knee(
    measure: Callable[[float], Shown], promise: Promise, scales: list[float], refinements: int
) -> RateKnee:
    """Goes up the scales until the promise breaks, then narrows the last interval."""
    tried: list[tuple[float, Shown]] = []
    carried: float | None = None
    broken: float | None = None
    for scale in sorted(scales):
        tried.append((scale, measure(scale)))
        if not tried[-1][1].keeps(promise):
            broken = scale
            break
        carried = scale
    if broken is None or carried is None:
        return RateKnee(carried, broken is None, tuple(tried))
    for _ in range(refinements):
        middle = (carried + broken) / 2
        tried.append((middle, measure(middle)))
        if tried[-1][1].keeps(promise):
            carried = middle
        else:
            broken = middle
    return RateKnee(carried, False, tuple(tried))
