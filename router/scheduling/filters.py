"""Which candidates a policy gets to see."""

from __future__ import annotations

from operator import lt

from router.scheduling.types import Candidates


def with_room(candidates: Candidates) -> Candidates:
    """Those that may take one more request, in the order given; none if all are full."""
    lists = candidates.lists
    if lists is not None:
        if all(map(lt, lists.in_flight, lists.in_flight_max)):
            return candidates
        return candidates.where(list(map(lt, lists.in_flight, lists.in_flight_max)))
    return candidates.where(candidates.in_flight < candidates.in_flight_max)
