"""Predicted cost in milliseconds: what the request waits, and what it costs others.

    cost = overhead + (wait + own * (1 + recompute_share)) * sqrt(1 + in_flight)
                    + DECODE_WEIGHT * in_flight * decode_step

* `overhead + wait + own` is the predicted time to first token: the tokens queued before it and its
  own uncached ones at the speed learned for the worker.
* Prompts share their steps with the sequences that are decoding: these slow them down, and get
  their own next tokens later. How much that counts was found by simulation (ADR 13): not at all
  (the time alone) leaves workers with many sequences behind, in full (time by sequences, as the
  policy `product` does) gives reuse away; the root, between the two, is better than either.
* What a worker with a full cache computes displaces other blocks. The share of displaced blocks
  that are asked for again, and so computed again, is the part of `own` that others will pay.
* The new sequence makes every step a little longer for the others, for as long as it runs.

Every term is continuous: affinity gives way when a queue costs more than a prefill, per request and
without a switch, so hot prefixes spread by themselves. Costs within 2 % are noise of the learned
speeds: among them the fewest requests in flight decide, and then a draw, which keeps equal workers
evenly used.
"""

from __future__ import annotations

from math import sqrt
from random import Random

import numpy as np

from router.scheduling.choosing import choice, lowest, lowest_of_few
from router.scheduling.prediction import prefill_ms, wait_ms
from router.scheduling.types import Candidates, Choice, Floats, Lists, RoutingRequest

DECODE_WEIGHT = 0.02
TIE_SHARE = 0.02
TIE_MS = 0.05


class CostPolicy:
    """The lowest predicted cost."""

    name = "cost"

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        costs: Floats | list[float]
        if candidates.lists is not None:
            costs = _costs_of_few(request, candidates.lists)
            tolerance = TIE_MS + TIE_SHARE * min(costs)
            at, reason = lowest_of_few(costs, rng, tolerance, candidates.lists.in_flight)
        else:
            costs = cost_ms(request, candidates)
            tolerance = TIE_MS + TIE_SHARE * float(costs.min())
            at, reason = lowest(costs, rng, tolerance, candidates.in_flight)
        return choice(request, candidates, costs, at, reason, binds_late=True)


def cost_ms(request: RoutingRequest, candidates: Candidates) -> Floats:
    """The formula above, for each candidate; > 0."""
    in_flight = candidates.in_flight
    own = prefill_ms(request, candidates) / (1.0 - request.recompute_share)
    shared = (wait_ms(candidates) + own) * np.sqrt(1.0 + in_flight)
    decode = DECODE_WEIGHT * in_flight * candidates.decode_step_ms
    total: Floats = candidates.overhead_ms + shared + decode
    return total


def _costs_of_few(request: RoutingRequest, few: Lists) -> list[float]:
    """`cost_ms`, to the last bit, of candidates that are too few for arrays."""
    prompt_tokens, costs = request.prompt_tokens, []
    for match, in_flight, queued, speed, step_ms, overhead_ms, attention in zip(
        few.match_tokens,
        few.in_flight,
        few.queued_tokens,
        few.prefill_tokens_per_s,
        few.decode_step_ms,
        few.overhead_ms,
        few.attention_tokens,
        strict=True,
    ):
        uncached = prompt_tokens - match if prompt_tokens > match else 1
        own = uncached * (1.0 + (match + uncached / 2) / attention) / speed * 1000.0
        own /= 1.0 - request.recompute_share
        cost = queued / speed * 1000.0 + own
        if in_flight:  # most are idle when it matters how quick this is
            shared, decode = cost * sqrt(1.0 + in_flight), DECODE_WEIGHT * in_flight * step_ms
            costs.append(overhead_ms + shared + decode)
        else:
            costs.append(overhead_ms + cost)
    return costs
