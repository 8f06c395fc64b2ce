from __future__ import annotations

from cluster.scaling.removals import Removable, choose_removals
from rhizome.fleet.records import WorkerState

READY, LOADING, FAILED = WorkerState.READY, WorkerState.LOADING, WorkerState.FAILED


def worker(
    name: str, state: WorkerState = READY, started: float = 0.0, load: int | None = 0
) -> Removable:
    return Removable(name, state, started, load)


def test_failed_workers_go_first() -> None:
    workers = [worker("idle"), worker("other"), worker("dead", FAILED)]
    assert choose_removals(workers, 1) == ["dead"]


def test_an_idle_ready_worker_goes_before_a_loading_one() -> None:
    workers = [worker("busy", load=4), worker("idle"), worker("new", LOADING)]
    assert choose_removals(workers, 1) == ["idle"]


def test_the_last_ready_worker_stays_while_another_can_go() -> None:
    workers = [worker("idle"), worker("new", LOADING), worker("newer", LOADING, 5.0)]
    assert choose_removals(workers, 2) == ["newer", "new"]


def test_a_loading_worker_goes_before_a_busy_one() -> None:
    workers = [worker("busy", load=4), worker("busier", load=9), worker("new", LOADING)]
    assert choose_removals(workers, 3) == ["new", "busy", "busier"]


def test_the_newest_goes_first_among_equals() -> None:
    workers = [worker("old", started=1.0), worker("new", started=9.0), worker("mid", started=5.0)]
    assert choose_removals(workers, 2) == ["new", "mid"]


def test_unknown_load_counts_as_the_heaviest() -> None:
    workers = [worker("silent", load=None), worker("busy", load=7), worker("busier", load=8)]
    assert choose_removals(workers, 2) == ["busy", "busier"]


def test_nothing_goes_for_a_count_of_zero_or_less_and_all_for_too_many() -> None:
    workers = [worker("a"), worker("b")]
    assert choose_removals(workers, 0) == []
    assert choose_removals(workers, -3) == []
    assert sorted(choose_removals(workers, 9)) == ["a", "b"]
