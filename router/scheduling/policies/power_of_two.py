"""The less loaded of two drawn at random (Mitzenmacher, 2001): little herding on stale loads."""

from __future__ import annotations

from random import Random

from router.scheduling.choosing import Reason, choice, load_shares, lowest
from router.scheduling.types import Candidates, Choice, RoutingRequest


class PowerOfTwoPolicy:
    """Draws two candidates, takes the one with the smaller share in flight."""

    name = "power_of_two"

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        costs = load_shares(candidates)
        drawn = rng.sample(range(len(candidates)), min(2, len(candidates)))
        within, reason = lowest(costs[drawn], rng)
        if reason is Reason.LOWEST_COST:
            reason = Reason.BETTER_OF_TWO
        return choice(request, candidates, costs, drawn[within], reason)
