"""From costs to a choice: the last step of every policy."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from random import Random

import numpy as np

from router.scheduling.binding import should_wait
from router.scheduling.prediction import predicted_ttft_ms
from router.scheduling.types import Candidates, Choice, Floats, Ints, RoutingRequest, Scored


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


def lowest(
    costs: Floats, rng: Random, tolerance: float = 0.0, loads: Ints | None = None
) -> tuple[int, Reason]:
    """The position of the lowest cost, drawn evenly among those within `tolerance` of it; of
    these, if `loads` are given, only among those with the least load."""
    if len(costs) == 1:
        return 0, Reason.ONLY_CANDIDATE
    tied = np.flatnonzero(costs <= costs.min() + tolerance)
    if len(tied) == 1:
        return int(tied[0]), Reason.LOWEST_COST
    if loads is not None:
        of_tied = loads[tied]
        tied = tied[of_tied == of_tied.min()]
    return int(tied[int(rng.random() * len(tied))]), Reason.TIE


def lowest_of_few(
    costs: Sequence[float], rng: Random, tolerance: float, loads: Sequence[int]
) -> tuple[int, Reason]:
    """The same for a few costs that are no array."""
    if len(costs) == 1:
        return 0, Reason.ONLY_CANDIDATE
    limit = min(costs) + tolerance
    tied = [at for at, cost in enumerate(costs) if cost <= limit]
    if len(tied) == 1:
        return tied[0], Reason.LOWEST_COST
    least = min([loads[at] for at in tied])
    tied = [at for at in tied if loads[at] == least]
    return tied[int(rng.random() * len(tied))], Reason.TIE


def load_shares(candidates: Candidates) -> Floats:
    """Requests in flight relative to what each candidate may have; >= 0."""
    shares: Floats = candidates.in_flight / np.maximum(1, candidates.in_flight_max)
    return shares


def choice(
    request: RoutingRequest,
    candidates: Candidates,
    costs: Floats | Sequence[float],
    at: int,
    reason: Reason,
    *,
    binds_late: bool = False,
) -> Choice:
    """The candidate at position `at`, with the costs of all to explain it; where the policy binds
    late, the request may better wait for it."""
    one = candidates[at]
    chosen = Scored(one, float(costs[at]), predicted_ttft_ms(request, one))
    late = binds_late and should_wait(request, one)
    return Choice(one.worker_id, reason, chosen, costs, late, binds_late)
