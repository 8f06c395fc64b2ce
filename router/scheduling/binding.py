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
"""

from __future__ import annotations

from router.scheduling.prediction import prefill_ms, wait_ms
from router.scheduling.types import Candidate, RoutingRequest

SHORT_OVERHEADS = 4.0


def should_wait(request: RoutingRequest, chosen: Candidate) -> bool:
    """Whether the request had better not be sent to the chosen candidate yet."""
    return (
        chosen.is_learned
        and wait_ms(chosen) > chosen.overhead_ms
        and prefill_ms(request, chosen) > SHORT_OVERHEADS * chosen.overhead_ms
    )
