"""The step model fitted to measured durations: non-negative, in relative error, robust.

Every measurement is a span of time that holds known amounts of work (`Work`); the model says that
its length is the sum of amounts times costs. Costs cannot be negative, a slow outlier must not
bend the rest, and 10 % of a 5 ms step matters as much as 10 % of a second of prefill. Hence
non-negative least squares (Lawson and Hanson 1974, chapter 23) on rows divided by their length,
reweighted by Huber's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_HUBER = 1.345
"""In units of the residuals' spread: 95 % efficient on normal noise (Huber 1981)."""
_ROUNDS_MAX = 50
_FLOOR_SHARE = 0.2
_SPREAD_FLOOR = 1e-4
"""Relative residuals below this are rounding, not noise."""


class Work(NamedTuple):
    """What a span of time held, in the units of the profile's coefficients."""

    steps: float = 0.0
    sequences: float = 0.0
    """Summed over its steps, as the next ones are."""
    context_ktok: float = 0.0
    prefill_ktok: float = 0.0
    attended_mtok2: float = 0.0
    requests: float = 0.0
    """Fixed costs of a request that lie in the span."""


class Costs(NamedTuple):
    """One coefficient for each part of `Work`, by the profile's names."""

    a_ms: float
    b_ms: float
    c_ms_per_ktok: float
    d_ms_per_ktok: float
    e_ms_per_mtok2: float
    request_overhead_ms: float

    def of_ms(self, work: Work) -> float:
        """How long a span with that work takes."""
        return float(np.dot(self, work))


@dataclass(frozen=True, slots=True)
class Observation:
    """A measured span; `kind` groups residuals in the report."""

    kind: str
    work: Work
    ms: float


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Relative errors without their sign."""

    count: int
    median: float
    p90: float

    @classmethod
    def of(cls, errors: Iterable[float]) -> ErrorSummary:
        """Of relative errors with or without a sign; zeros where there are none."""
        sizes = np.abs(np.fromiter(errors, dtype=np.float64))
        if not sizes.size:
            return cls(0, 0.0, 0.0)
        return cls(
            int(sizes.size),
            float(np.median(sizes)),
            float(np.percentile(sizes, 90, method="higher")),
        )

    def as_dict(self) -> dict[str, float | int]:
        return {"count": self.count, "median": round(self.median, 4), "p90": round(self.p90, 4)}


@dataclass(frozen=True, slots=True)
class Fit:
    """Costs, and how far they are from each kind of observation (`all` for all of them)."""

    costs: Costs
    errors: dict[str, ErrorSummary]


def fit(observations: Sequence[Observation], *, without: frozenset[str] = frozenset()) -> Fit:
    """The costs that explain the observations best; those named in `without` are held at 0.

    Raises ValueError when there is nothing to fit.
    """
    kept = [each for each in observations if each.ms > 0.0]
    if not kept:
        raise ValueError("no observations to fit")
    work = np.array([each.work for each in kept], dtype=np.float64)
    ms = np.array([each.ms for each in kept])
    work[:, [name in without for name in Costs._fields]] = 0.0
    solution = _robust(work, ms, _floors(kept))
    errors = work @ solution / ms - 1.0
    groups = {"all": ErrorSummary.of(errors)}
    for kind in dict.fromkeys(each.kind for each in kept):
        mask = [each.kind == kind for each in kept]
        groups[kind] = ErrorSummary.of(errors[mask])
    return Fit(Costs(*(float(value) for value in solution)), groups)


def _floors(observations: Sequence[Observation]) -> Vector:
    """What each row counts as at least when weights are first chosen, in ms.

    A reading far below its kind, as when a stalled client gets many tokens at once, would otherwise
    outweigh all others before there is a fit to tell it from them.
    """
    by_kind: dict[str, list[float]] = {}
    for each in observations:
        by_kind.setdefault(each.kind, []).append(each.ms)
    typical = {kind: float(np.median(values)) for kind, values in by_kind.items()}
    return np.array([typical[each.kind] * _FLOOR_SHARE for each in observations])


def _robust(work: Vector, ms: Vector, floors: Vector) -> Vector:
    """Huber's estimate of x >= 0 in `work @ x = ms`, by iterated reweighting.

    Residuals are relative to the larger of measured and fitted: too long by half and too short by
    half count alike.
    """
    scale = np.maximum(ms, floors)
    solution = _weighted(work, ms, 1.0 / scale)
    for _ in range(_ROUNDS_MAX):
        fitted = work @ solution
        scale = np.maximum(ms, fitted)
        residuals = np.abs(fitted - ms) / scale
        spread = max(float(np.median(residuals)) / 0.6745, _SPREAD_FLOOR)
        trust = np.sqrt(np.minimum(1.0, _HUBER * spread / np.maximum(residuals, 1e-12)))
        after = _weighted(work, ms, trust / scale)
        settled = np.allclose(after, solution, rtol=1e-6, atol=1e-12)
        solution = after
        if settled:
            break
    return solution


def _weighted(work: Vector, ms: Vector, weights: Vector) -> Vector:
    return nonnegative_least_squares(work * weights[:, None], ms * weights)


def nonnegative_least_squares(matrix: Vector, target: Vector) -> Vector:
    """The x >= 0 that makes `matrix @ x` closest to `target`; columns of zeros get 0.

    Columns are scaled first, so that units do not decide what counts as zero.
    """
    scale = np.linalg.norm(matrix, axis=0)
    usable = scale > 0.0
    scaled = matrix / np.where(usable, scale, 1.0)
    size = matrix.shape[1]
    active = np.zeros(size, dtype=bool)
    solution = np.zeros(size)
    for _ in range(3 * size + 10):
        gradient = scaled.T @ (target - scaled @ solution)
        open_columns = usable & ~active & (gradient > 1e-10)
        if not open_columns.any():
            break
        active[int(np.argmax(np.where(open_columns, gradient, -np.inf)))] = True
        solution = _feasible(scaled, target, active, solution)
    return np.where(usable, solution / np.where(usable, scale, 1.0), 0.0)


def _feasible(matrix: Vector, target: Vector, active: NDArray[np.bool_], start: Vector) -> Vector:
    """Least squares on the active columns, giving up those that would turn negative."""
    solution = start
    while active.any():
        trial = np.zeros_like(start)
        trial[active] = np.linalg.lstsq(matrix[:, active], target, rcond=None)[0]
        negative = active & (trial <= 0.0)
        if not negative.any():
            return trial
        share = np.min(solution[negative] / (solution[negative] - trial[negative] + 1e-300))
        solution = solution + share * (trial - solution)
        active &= solution > 1e-12
        solution = np.where(active, solution, 0.0)
    return np.zeros_like(start)


def prefill_work(prompt_len: int, budget: int, *, requests: float = 0.0) -> Work:
    """One prompt alone in the engine, in chunks of `budget` tokens."""
    full, rest = divmod(prompt_len, budget)
    chunks = full + (rest > 0)
    return Work(
        steps=chunks,
        sequences=chunks,
        prefill_ktok=prompt_len / 1e3,
        attended_mtok2=prompt_len * prompt_len / 2 / 1e6,
        requests=requests,
    )
