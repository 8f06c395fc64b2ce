"""Which candidates a policy gets to see."""

from __future__ import annotations

from router.scheduling.types import Candidates


def with_room(candidates: Candidates) -> Candidates:
    """Those that may take one more request, in the order given; none if all are full."""
    return candidates.where(candidates.in_flight < candidates.in_flight_max)
