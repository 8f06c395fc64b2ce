"""What routers tell the autoscaler: a small board of the latest reading of each router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class ModelSignal(msgspec.Struct, frozen=True, kw_only=True):
    """One router's view of one model over its last reporting window."""

    model: str
    router_id: str
    at_wall_s: float
    window_s: float
    queued: int
    """Requests waiting in this router now."""
    queue_wait_ms_max: float
    """The longest wait: of those waiting now, or of those let in during the window."""
    in_flight: int
    """Requests dispatched by this router and not ended."""
    predicted_ttft_ms_p90: float | None
    """Of the decisions in the window; None when there were none."""
    arrivals_per_s: float
    refused: int
    """Requests answered 429 or 503 in the window."""


class SignalBoard(Protocol):
    """The latest signals of every living router; an entry ends with its ttl."""

    async def publish(self, router_id: str, signals: Sequence[ModelSignal], ttl_s: float) -> None:
        """Replaces what this router said before."""
        ...

    async def signals(self) -> Sequence[ModelSignal]: ...
