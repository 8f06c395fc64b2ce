"""Prefill work times batch size: `(uncached + queued tokens) * (in_flight + 1)`.

The score of vllm-router's kv_aware and of LMetric (arXiv 2603.15202). It has no weights to tune,
and none to say what a queue costs in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.scheduling.choosing import choice, lowest
from router.scheduling.prediction import uncached_tokens
from router.scheduling.types import Candidate, Choice, RoutingRequest


class ProductPolicy:
    """The lowest product, drawn among equals."""

    name = "product"

    def choose(
        self, request: RoutingRequest, candidates: Sequence[Candidate], rng: Random
    ) -> Choice:
        costs = [
            float((uncached_tokens(request, one) + one.queued_tokens) * (one.in_flight + 1))
            for one in candidates
        ]
        at, reason = lowest(costs, rng)
        return choice(request, candidates, costs, at, reason)
