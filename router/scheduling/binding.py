"""Late binding: whether a request should go to the chosen worker now, or wait for it in the router.

A prompt that is sent to a worker with work before it is committed: it cannot move to a worker that
gets free earlier, and shorter prompts that come later wait behind it. So a long prompt waits in the
router's line until the chosen worker is nearly free, and is judged anew whenever a prompt is done
anywhere. Limits are multiples of the worker's learned overhead, the time that a wholly cached
prompt takes there:

* Nobody waits by what is only assumed of a worker's speed.
* One overhead of wait is as good as none: the worker must not run out of work while the router
  hears of it.
* A prompt of up to `SHORT_OVERHEADS` goes at once: engines compute several of its kind in one step,
  and sending them one by one would lose more than it wins (at 80 % load with prompts of two
  overheads, mean TTFT was 2.4 times as long).

A request whose best worker is full waits for a place there rather than be computed anew elsewhere,
for as long at most as that would take longer. What it would take too long for all who stand in line
lose too, each worker's share of them: without counting these, a fleet whose places are all taken
sends each request to whichever place comes free, computes everything anew and stays full.
"""

from __future__ import annotations

from router.scheduling.prediction import prefill_ms, wait_ms
from router.scheduling.types import Candidate, RoutingRequest

SHORT_OVERHEADS = 4.0
PLACE_WAIT_MS_MAX = 500.0


def should_wait(request: RoutingRequest, chosen: Candidate) -> bool:
    """Whether the request had better not be sent to the chosen candidate yet."""
    return (
        chosen.is_learned
        and wait_ms(chosen) > chosen.overhead_ms
        and prefill_ms(request, chosen) > SHORT_OVERHEADS * chosen.overhead_ms
    )


def should_wait_for_place(
    request: RoutingRequest, chosen: Candidate, full: Candidate, waited_ms: float, others: float
) -> bool:
    """Whether the request had better wait (longer) for a place at a full candidate than be sent to
    the chosen one, which holds less of it; `others` stand in line for each worker."""
    if full.match_tokens <= chosen.match_tokens or not full.is_learned:
        return False
    saved_ms = prefill_ms(request, chosen) - prefill_ms(request, full)
    wait_ms_max = min(PLACE_WAIT_MS_MAX, saved_ms * (1.0 + others))
    return saved_ms > chosen.overhead_ms and waited_ms < wait_ms_max
