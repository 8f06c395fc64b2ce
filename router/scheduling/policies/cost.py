"""Predicted cost in milliseconds: what the request waits, and what it costs those running.

    cost = overhead + wait + own * (1 + PREFILL_WEIGHT * in_flight)
                    + decode_weight(prompt tokens) * in_flight * decode_step

* `overhead + wait + own` is the predicted time to first token: the tokens queued before it and its
  own uncached ones at the speed learned for the worker.
* The own prefill shares its steps with the sequences that are decoding, so each of them gets its
  next tokens later by about `own` in sum. A late token inside an answer hurts less than a late
  first one, hence a weight below 1.
* The new sequence then makes every step longer by a small share (a longer batch, and more KV to
  read the longer its prompt is) for as long as it runs: in sum about `tokens * growth * step` for
  each of the others. Fits of public measurements give a growth of 0.25 % a sequence and as much
  again for 1,000 tokens of context, so with some 100 output tokens a quarter of a step and another
  one per 1,000 tokens. The part of it that counts beside a late first token was found by
  simulation (ADR 6).

Every term is continuous: affinity gives way when a queue costs more than a prefill, per request and
without a switch, so hot prefixes spread by themselves. Costs within 2 % are noise of the learned
speeds: among them the fewest requests in flight decide, and then a draw, which keeps equal workers
evenly used.
"""

from __future__ import annotations

from random import Random

from router.scheduling.choosing import choice, lowest, lowest_of_few
from router.scheduling.prediction import prefill_ms, wait_ms
from router.scheduling.types import Candidates, Choice, Floats, Lists, RoutingRequest

PREFILL_WEIGHT = 0.01
DECODE_WEIGHT = 0.05
DECODE_WEIGHT_PER_TOKEN = 0.00002
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
    own = prefill_ms(request, candidates) * (1.0 + PREFILL_WEIGHT * in_flight)
    decode = _decode_weight(request) * in_flight * candidates.decode_step_ms
    total: Floats = candidates.overhead_ms + wait_ms(candidates) + own + decode
    return total


def _costs_of_few(request: RoutingRequest, few: Lists) -> list[float]:
    """`cost_ms`, to the last bit, of candidates that are too few for arrays."""
    prompt_tokens, decode_weight = request.prompt_tokens, _decode_weight(request)
    prefill_weight, costs = PREFILL_WEIGHT, []
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
        if not in_flight:  # most are idle when it matters how quick this is
            costs.append(overhead_ms + queued / speed * 1000.0 + own)
            continue
        own *= 1.0 + prefill_weight * in_flight
        decode = decode_weight * in_flight * step_ms
        costs.append(overhead_ms + queued / speed * 1000.0 + own + decode)
    return costs


def _decode_weight(request: RoutingRequest) -> float:
    """What a step of each running sequence counts for, in steps."""
    return DECODE_WEIGHT + DECODE_WEIGHT_PER_TOKEN * request.prompt_tokens
