"""What one rank has done, counted as vLLM counts it: the numbers behind `/metrics`.

Bucket bounds are vLLM 0.32's own (v1/metrics/buckets.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

LATENCY_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
STEP_BOUNDS = tuple(float(2**power) for power in (0, *range(3, 15)))


class Histogram:
    """Counts by upper bound, the last one without."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)


def size_bounds(max_model_len: int) -> tuple[float, ...]:
    """1, 2, 5, 10… up to the longest sequence."""
    steps = (float(digit * 10**power) for power in range(8) for digit in (1, 2, 5))
    return tuple(bound for bound in steps if bound <= max_model_len)


class RankStats:
    """Counters and histograms of one rank since its start."""

    def __init__(self, max_model_len: int) -> None:
        sizes = size_bounds(max_model_len)
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        self.preemptions = 0
        self.cached_tokens = 0
        """Prompt tokens that came from the cache, of requests with a first token."""
        self.step_tokens = Histogram(STEP_BOUNDS)
        self.prompt_sizes = Histogram(sizes)
        self.output_sizes = Histogram(sizes)
        self.first_token = Histogram(FIRST_TOKEN_BOUNDS)
        self.between_tokens = Histogram(TOKEN_BOUNDS)
        self.per_token = Histogram(TOKEN_BOUNDS)
        self.whole = Histogram(LATENCY_BOUNDS)
        self.queued = Histogram(LATENCY_BOUNDS)
        self.prefill = Histogram(LATENCY_BOUNDS)
        self.decode = Histogram(LATENCY_BOUNDS)
        self.inference = Histogram(LATENCY_BOUNDS)
