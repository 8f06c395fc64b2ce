"""What is placed: a job, and what came of it: an assignment to a target, or a reason to wait."""

from __future__ import annotations

import msgspec

from router.admission.classes import Priority
from router.decisions.records import Decision
from router.fleet import Target
from router.prompt import Prompt
from router.scheduling.binding import should_wait_for_place
from router.scheduling.load import Receipt
from router.scheduling.prediction import work_tokens
from router.scheduling.types import Candidate, Choice, RoutingRequest


class Job(msgspec.Struct, eq=False):
    """A request that is ready to be placed."""

    request_id: str
    model: str
    prompt: Prompt
    priority: Priority = Priority.INTERACTIVE
    session: str | None = None
    completion_tokens_max: int | None = None
    streamed: bool = True
    """Whether its answer's first byte tells that its prompt is done."""
    excluded: set[str] = set()
    """Workers that failed this request already."""
    entered_at_s: float = 0.0
    """When it asked to be placed."""
    has_waited: bool = False
    """Whether it was not placed at once, so that it is looked at again and again."""
    awaits_place_since_s: float | None = None
    """When it was first kept for a place at a full worker though others had room."""
    decision: Decision | None = None
    """Where to note what was considered."""

    def routing_request(self, sample: Target, recompute_share: float) -> RoutingRequest:
        """What the scheduler gets to know of it, over targets with blocks like the sample's."""
        return RoutingRequest(
            request_id=self.request_id,
            model=self.model,
            prompt_tokens=self.prompt.tokens,
            block_hashes=self.prompt.hashes(sample.record.block_size),
            session=self.session,
            completion_tokens_max=self.completion_tokens_max,
            recompute_share=recompute_share,
        )

    def wait_for_place(
        self,
        request: RoutingRequest,
        chosen: Candidate,
        best: Candidate,
        now_s: float,
        others: float,
    ) -> bool:
        """Whether it had better wait for a place at the best candidate, full or not, than be sent
        to the chosen one; notes since when. `others` as in `router.scheduling.binding`."""
        if best.in_flight < best.in_flight_max:
            return False
        since_s = now_s if self.awaits_place_since_s is None else self.awaits_place_since_s
        waited_ms = (now_s - since_s) * 1000.0
        if not should_wait_for_place(request, chosen, best, waited_ms, others):
            return False
        self.awaits_place_since_s = since_s
        return True


class Assignment(msgspec.Struct, eq=False):
    """Where a job goes, why, and the receipt for the load it causes."""

    job: Job
    target: Target
    choice: Choice
    receipt: Receipt
    assigned_at_s: float
    first_byte_at_s: float | None = None
    """Of a streamed answer; a whole one tells nothing of its first token."""

    @property
    def predicted_tokens(self) -> int:
        """Leading prompt tokens that the worker was believed to hold."""
        return self.choice.chosen.candidate.match_tokens

    @property
    def waited_s(self) -> float:
        """Time in the queue."""
        return max(0.0, self.assigned_at_s - self.job.entered_at_s)


class Held(msgspec.Struct, frozen=True):
    """A job that had better wait for a target than be sent there now."""

    target_id: str
    request: RoutingRequest
    candidate: Candidate

    @property
    def work_tokens(self) -> int:
        """Work that the target will get by it."""
        return round(work_tokens(self.request, self.candidate))
