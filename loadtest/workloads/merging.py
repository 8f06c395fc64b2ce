"""Many sessions at once: their requests in order of time, few sessions in memory.

A session is a lazy row of requests. Only those that have begun are held, so an endless workload
needs as much memory as there are sessions at one time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from loadtest.workloads.requests import TracedRequest

Session = Iterator[TracedRequest]


def merged(starts_s: Iterator[float], begin: Callable[[int, float], Session]) -> Session:
    """The requests of all sessions in order of time; `begin(place, start_s)` makes a session whose
    requests are in order and not before its start."""
    living: list[tuple[float, int, TracedRequest, Session]] = []
    starts = enumerate(starts_s)
    upcoming = next(starts, None)
    while living or upcoming is not None:
        if upcoming is not None and (not living or upcoming[1] <= living[0][0]):
            place, start_s = upcoming
            _take(living, place, begin(place, start_s))
            upcoming = next(starts, None)
            continue
        _, place, request, session = heapq.heappop(living)
        yield request
        _take(living, place, session)


def _take(
    living: list[tuple[float, int, TracedRequest, Session]], place: int, session: Session
) -> None:
    """Puts the session back with its next request; one that has ended is let go."""
    request = next(session, None)
    if request is not None:
        heapq.heappush(living, (request.at_s, place, request, session))
