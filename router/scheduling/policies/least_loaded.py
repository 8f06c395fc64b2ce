"""The smallest share of requests in flight: the control for loads without shared prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.scheduling.choosing import choice, load_share, lowest
from router.scheduling.types import Candidate, Choice, RoutingRequest


class LeastLoadedPolicy:
    """The lowest `in_flight / in_flight_max`, drawn among equals."""

    name = "least_loaded"

    def choose(
        self, request: RoutingRequest, candidates: Sequence[Candidate], rng: Random
    ) -> Choice:
        costs = [load_share(one) for one in candidates]
        at, reason = lowest(costs, rng)
        return choice(request, candidates, costs, at, reason)
