"""Cache-aware by thresholds, as SGLang's router does it (its defaults: 0.5, 32, 1.1).

If loads differ by more than 32 requests and by more than 10 %, prefixes are not looked at and the
least loaded takes the request. Else the longest match takes it if it covers more than half of the
prompt, and the least loaded if not. Kept to be compared with: it has a cliff at each threshold.
"""

from __future__ import annotations

from random import Random

import numpy as np

from router.scheduling.choosing import Reason, choice, lowest
from router.scheduling.types import Candidates, Choice, RoutingRequest

CACHE_THRESHOLD = 0.5
BALANCE_ABS = 32
BALANCE_REL = 1.1


class ThresholdPolicy:
    """The longest match above the threshold, unless the loads are out of balance."""

    name = "threshold"

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        loads = candidates.in_flight.astype(np.float64)
        longest = candidates.match_tokens.max()
        most, least = loads.max(), loads.min()
        if most - least > BALANCE_ABS and most > BALANCE_REL * least:
            reason = Reason.IMBALANCE
        elif longest > CACHE_THRESHOLD * request.prompt_tokens:
            reason = Reason.PREFIX_MATCH
            loads[candidates.match_tokens != longest] += most + 1
        else:
            reason = Reason.NO_MATCH
        at, _ = lowest(loads, rng)
        return choice(request, candidates, loads, at, reason)
