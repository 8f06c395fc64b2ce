"""Drawing lengths, ranks and turns: the few distributions that the generators share."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import accumulate
from random import Random

_SPREAD = 0.6
"""Sigma of the logarithm of lengths: about what chat traces show around their median."""
_TIMES_MEAN_MAX = 8


def length_about(rng: Random, mean_tokens: int) -> int:
    """A log-normal length with this mean, from 1 to 8 times the mean."""
    drawn = round(math.exp(rng.normalvariate(_log_median(mean_tokens), _SPREAD)))
    return max(1, min(drawn, _TIMES_MEAN_MAX * mean_tokens))


@lru_cache
def _log_median(mean_tokens: int) -> float:
    return math.log(mean_tokens) - _SPREAD**2 / 2


def turns_about(rng: Random, mean: float) -> int:
    """A geometric number of turns with this mean, from 1 to 8 times the mean."""
    if mean <= 1.0:
        return 1
    drawn = 1 + math.floor(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / mean))
    return min(drawn, math.ceil(_TIMES_MEAN_MAX * mean))


class Zipf:
    """Ranks 0 to count - 1, rank r with probability proportional to 1 / (r + 1)^exponent."""

    def __init__(self, count: int, exponent: float) -> None:
        self._cumulative = list(accumulate((rank + 1.0) ** -exponent for rank in range(count)))
        self._ranks = range(count)

    def draw(self, rng: Random) -> int:
        return rng.choices(self._ranks, cum_weights=self._cumulative)[0]
