"""One accepted request and what becomes of it."""

from __future__ import annotations

from typing import cast

import msgspec

from router.admission.classes import Priority
from router.comments import Comments
from router.decisions.records import Decision
from router.http.bodies import EngineBody
from router.http.client import Headers
from router.http.surface import Endpoint
from router.keys import ANONYMOUS, Principal
from router.placement import Assignment
from router.relay.dialect import Usage
from router.verifier import Expectation


class Call(msgspec.Struct, eq=False):
    endpoint: Endpoint
    body: EngineBody
    request_id: str
    priority: Priority
    accepted_at_s: float
    principal: Principal = ANONYMOUS
    """Who asks, by the name of the key."""
    headers: dict[str, str] = {}
    """Headers to pass on to the worker (trace context)."""
    deadline_s: float | None = None
    """When the client stops to wait, on the monotonic clock; it may have said so."""
    marks: Headers = ()
    """Headers of the answer that say what was done with the request."""
    comments: Comments | None = None
    """To its client, as long as a stream's first token has not come."""
    attempts: int = 0
    status: int | None = None
    """Of the worker's answer, once it goes to the client."""
    usage: Usage | None = None
    assignment: Assignment | None = None
    """The latest one."""
    expected: Expectation | None = None
    """What was believed of its worker when it was sent there."""
    decision: Decision = cast("Decision", None)  # made with the call
    """What is noted of it, to be explained afterwards."""

    def __post_init__(self) -> None:
        self.decision = Decision(
            request_id=self.request_id,
            path=self.endpoint.path,
            asked_model=self.body.model,
            key=self.principal.name,
            priority=self.priority,
            streamed=self.body.stream,
            accepted_at_s=self.accepted_at_s,
        )

    def stop_comments(self) -> None:
        """The first token has come, or nothing will."""
        if self.comments is not None:
            self.comments.stop()

    @property
    def path(self) -> str:
        """The metric label `route`."""
        return self.endpoint.path
