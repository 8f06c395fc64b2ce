"""From costs to a choice: the last step of every policy."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from random import Random

from router.scheduling.prediction import predicted_ttft_ms
from router.scheduling.types import Candidate, Choice, RoutingRequest, Scored


class Reason(StrEnum):
    """Why a candidate was chosen; fit for a metric label."""

    ONLY_CANDIDATE = "only_candidate"
    LOWEST_COST = "lowest_cost"
    TIE = "tie"
    """Drawn among candidates whose costs are as good as equal."""
    NEXT_IN_TURN = "next_in_turn"
    BETTER_OF_TWO = "better_of_two"
    PREFIX_MATCH = "prefix_match"
    IMBALANCE = "imbalance"
    """Load differed too much to look at prefixes."""
    NO_MATCH = "no_match"
    """No candidate held enough of the prompt; the least loaded took it."""
    HOME = "home"
    """The worker that the session or prefix belongs to."""
    HOME_SATURATED = "home_saturated"
    """A later one in the session's order, since those before it had too much to do."""


def lowest(costs: Sequence[float], rng: Random, tolerance: float = 0.0) -> tuple[int, Reason]:
    """The position of the lowest cost, drawn evenly among those within `tolerance` of it."""
    best = min(costs)
    if len(costs) == 1:
        return 0, Reason.ONLY_CANDIDATE
    tied = [at for at, cost in enumerate(costs) if cost <= best + tolerance]
    if len(tied) == 1:
        return tied[0], Reason.LOWEST_COST
    return rng.choice(tied), Reason.TIE


def load_share(candidate: Candidate) -> float:
    """Requests in flight relative to what the candidate may have; >= 0."""
    return candidate.in_flight / max(1, candidate.in_flight_max)


def choice(
    request: RoutingRequest,
    candidates: Sequence[Candidate],
    costs: Sequence[float],
    at: int,
    reason: Reason,
) -> Choice:
    """The candidate at position `at`, with every candidate's cost to explain it."""
    scored = tuple(
        Scored(one, cost, predicted_ttft_ms(request, one))
        for one, cost in zip(candidates, costs, strict=True)
    )
    return Choice(candidates[at].worker_id, reason.value, scored[at], scored)
