"""Which workers go first when a model has too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rhizome.fleet.records import WorkerState


@dataclass(frozen=True, slots=True)
class Removable:
    """A worker as far as its removal is concerned."""

    worker_id: str
    state: WorkerState
    started_wall_s: float
    in_flight: int | None = None
    """Requests that it runs; None when that is not known."""


def choose_removals(workers: Sequence[Removable], count: int) -> list[str]:
    """The ids of `count` workers to remove (all, if there are fewer), first to go first.

    Failed ones go first, then idle ready ones, newest first, but one ready worker is kept for as
    long as there is another to take: whoever is loading serves nobody yet. Then those loading,
    newest first, and at last the busy, by least in flight, newest first. A worker whose load is
    not known counts as busier than any known one.
    """
    ready = sorted(
        (one for one in workers if one.state is WorkerState.READY), key=_busy_then_oldest
    )
    keeper = ready[0].worker_id if ready else None

    def order(one: Removable) -> tuple[int, float, float, str]:
        newest_first = -one.started_wall_s
        if one.state is WorkerState.FAILED:
            return (0, 0.0, newest_first, one.worker_id)
        if one.worker_id == keeper:
            return (4, 0.0, newest_first, one.worker_id)
        if one.state is WorkerState.LOADING:
            return (2, 0.0, newest_first, one.worker_id)
        in_flight = float("inf") if one.in_flight is None else float(one.in_flight)
        return (3 if in_flight else 1, in_flight, newest_first, one.worker_id)

    return [one.worker_id for one in sorted(workers, key=order)[: max(count, 0)]]


def _busy_then_oldest(one: Removable) -> tuple[float, float, str]:
    in_flight = float("inf") if one.in_flight is None else float(one.in_flight)
    return (-in_flight, one.started_wall_s, one.worker_id)
