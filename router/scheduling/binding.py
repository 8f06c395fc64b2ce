"""Late binding: whether a request should go to the chosen worker now, or wait for it in the router.

A prompt that is sent to a worker with work before it is committed: it cannot move to a worker that
gets free earlier, and shorter prompts that come later wait behind it. So a request waits in the
router's line until the chosen worker is nearly free, and is judged anew whenever a prompt is done
anywhere. Two kinds go at once, since waiting could win them nothing:

* those that wait no longer at the worker than a wholly cached prompt takes there (its learned
  overhead): the worker must not run out of work while the router hears of it;
* short ones, of no more than that themselves, that no other worker would serve sooner even if it
  had nothing to do: they belong where they are sent, and engines compute them along with others.
"""

from __future__ import annotations

import numpy as np

from router.scheduling.prediction import prefill_ms, wait_ms
from router.scheduling.types import Candidates, Floats, RoutingRequest


def should_wait(request: RoutingRequest, candidates: Candidates, costs: Floats, at: int) -> bool:
    """Whether the request had better not be sent to the candidate at position `at` yet.

    `costs` are those of all candidates, in ms, with their waits (`wait_ms`) in them.
    """
    wait = wait_ms(candidates)
    window_ms = candidates.overhead_ms[at]
    if wait[at] <= window_ms:
        return False
    if prefill_ms(request, candidates[at]) > window_ms:
        return True
    if_idle = costs - wait
    if_idle[at] = np.inf
    return bool(if_idle.min() < costs[at])
