"""The smallest share of requests in flight: the control for loads without shared prefixes."""

from __future__ import annotations

from random import Random

from router.scheduling.choosing import choice, load_shares, lowest
from router.scheduling.types import Candidates, Choice, RoutingRequest


class LeastLoadedPolicy:
    """The lowest `in_flight / in_flight_max`, drawn among equals."""

    name = "least_loaded"

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        costs = load_shares(candidates)
        at, reason = lowest(costs, rng)
        return choice(request, candidates, costs, at, reason)
