"""The less loaded of two drawn at random (Mitzenmacher, 2001): little herding on stale loads."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.scheduling.choosing import Reason, choice, load_share, lowest
from router.scheduling.types import Candidate, Choice, RoutingRequest


class PowerOfTwoPolicy:
    """Draws two candidates, takes the one with the smaller share in flight."""

    name = "power_of_two"

    def choose(
        self, request: RoutingRequest, candidates: Sequence[Candidate], rng: Random
    ) -> Choice:
        costs = [load_share(one) for one in candidates]
        drawn = rng.sample(range(len(candidates)), min(2, len(candidates)))
        within, reason = lowest([costs[at] for at in drawn], rng)
        if reason is Reason.LOWEST_COST:
            reason = Reason.BETTER_OF_TWO
        return choice(request, candidates, costs, drawn[within], reason)
