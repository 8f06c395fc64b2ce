"""Prefill work times batch size: `(uncached + queued tokens) * (in_flight + 1)`.

The score of vllm-router's kv_aware and of LMetric (arXiv 2603.15202). It has no weights to tune,
and none to say what a queue costs in time.
"""

from __future__ import annotations

from random import Random

import numpy as np

from router.scheduling.choosing import choice, lowest
from router.scheduling.prediction import uncached_tokens
from router.scheduling.types import Candidates, Choice, RoutingRequest


class ProductPolicy:
    """The lowest product, drawn among equals."""

    name = "product"

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        work = uncached_tokens(request, candidates) + candidates.queued_tokens
        costs = (work * (candidates.in_flight + 1)).astype(np.float64)
        at, reason = lowest(costs, rng)
        return choice(request, candidates, costs, at, reason)
