"""Which candidates a policy gets to see."""

from __future__ import annotations

from collections.abc import Sequence

from router.scheduling.types import Candidate


def with_room(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that may take one more request, in the order given; empty if all are full."""
    return [one for one in candidates if one.in_flight < one.in_flight_max]
