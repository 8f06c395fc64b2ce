"""The fleet: who may get a request, and what listeners are told."""

from __future__ import annotations

import msgspec

from rhizome.errors import NotReady, UnknownModel
from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from router.fleet import EngineLoad, Fleet, targets_of


def record(
    worker_id: str = "w0",
    incarnation: str = "a",
    state: WorkerState = WorkerState.READY,
    data_parallel: int = 1,
) -> WorkerRecord:
    return WorkerRecord(
        worker_id=worker_id,
        incarnation=incarnation,
        model="m",
        url="http://127.0.0.1:1",
        state=state,
        data_parallel=data_parallel,
    )


class Listener:
    def __init__(self) -> None:
        self.told: list[str] = []

    def joined(self, record: WorkerRecord) -> None:
        self.told.append(f"+{record.worker_id}:{record.incarnation}")

    def left(self, record: WorkerRecord) -> None:
        self.told.append(f"-{record.worker_id}:{record.incarnation}")


def eligible(fleet: Fleet) -> list[str]:
    return [target.target_id for target in fleet.eligible("m")]


def test_only_ready_workers_get_requests() -> None:
    fleet = Fleet(2)
    for number, state in enumerate(WorkerState):
        fleet.upsert(record(f"w{number}", state=state), 0.0)
    ready = list(WorkerState).index(WorkerState.READY)
    assert eligible(fleet) == [f"w{ready}"]


def test_failed_probes_suspend_and_one_success_restores() -> None:
    fleet = Fleet(2)
    fleet.upsert(record(), 0.0)
    fleet.probe("w0", False, 1.0)
    assert eligible(fleet) == ["w0"]
    fleet.probe("w0", False, 2.0)
    assert eligible(fleet) == []
    fleet.probe("w0", True, 3.0)
    assert eligible(fleet) == ["w0"]


def test_a_failed_dispatch_suspends_at_once_but_not_the_next_incarnation() -> None:
    fleet = Fleet(2)
    fleet.upsert(record(incarnation="b"), 0.0)
    fleet.dispatch_failed("w0", "a", "late news of the old one")
    assert eligible(fleet) == ["w0"]
    fleet.dispatch_failed("w0", "b", "refused")
    assert eligible(fleet) == []


def test_a_new_incarnation_is_a_new_worker() -> None:
    listener = Listener()
    fleet = Fleet(2, [listener])
    fleet.upsert(record(incarnation="a"), 0.0)
    fleet.dispatch_failed("w0", "a", "killed")
    fleet.upsert(record(incarnation="b"), 1.0)
    assert listener.told == ["+w0:a", "-w0:a", "+w0:b"]
    assert eligible(fleet) == ["w0"]


def test_a_worker_joins_when_it_is_ready_and_stays_while_it_drains() -> None:
    listener = Listener()
    fleet = Fleet(2, [listener])
    fleet.upsert(record(state=WorkerState.LOADING), 0.0)
    assert listener.told == []
    fleet.upsert(record(state=WorkerState.READY), 1.0)
    assert listener.told == ["+w0:a"]
    assert eligible(fleet) == ["w0"]
    fleet.upsert(record(state=WorkerState.DRAINING), 2.0)
    assert listener.told == ["+w0:a"]
    assert eligible(fleet) == []


def test_a_worker_that_never_was_ready_does_not_leave() -> None:
    listener = Listener()
    fleet = Fleet(2, [listener])
    fleet.upsert(record(state=WorkerState.LOADING), 0.0)
    fleet.remove("w0", "gone", 1.0)
    assert listener.told == []


def test_changed_facts_are_a_new_beginning_for_listeners() -> None:
    listener = Listener()
    fleet = Fleet(2, [listener])
    fleet.upsert(record(data_parallel=1), 0.0)
    fleet.upsert(record(data_parallel=2), 1.0)
    assert listener.told == ["+w0:a", "-w0:a", "+w0:a"]


def test_a_draining_worker_gets_nothing_new() -> None:
    fleet = Fleet(2)
    fleet.upsert(record(), 0.0)
    fleet.drain(frozenset({"w0"}))
    assert eligible(fleet) == []
    fleet.drain(frozenset())
    assert eligible(fleet) == ["w0"]


def test_removal_is_told_and_the_model_stays_known() -> None:
    listener = Listener()
    fleet = Fleet(2, [listener])
    fleet.upsert(record(), 0.0)
    fleet.remove("w0", "lease ended", 1.0)
    fleet.remove("w0", "again", 2.0)
    assert listener.told == ["+w0:a", "-w0:a"]
    assert fleet.models() == ()
    assert fleet.knows_model("m")
    assert not fleet.knows_model("other")


def test_a_late_listener_hears_of_those_already_here() -> None:
    fleet = Fleet(2)
    fleet.upsert(record(), 0.0)
    listener = Listener()
    fleet.listen(listener)
    assert listener.told == ["+w0:a"]


def test_ranks_are_targets_of_their_own() -> None:
    ranks = record(data_parallel=2)
    assert [target.target_id for target in targets_of(ranks)] == ["w0/0", "w0/1"]
    fleet = Fleet(2)
    fleet.upsert(ranks, 0.0)
    fleet.report("w0/1", EngineLoad(running=3, waiting=1, kv_usage=0.5), 1.0)
    first, second = fleet.eligible("m")
    assert fleet.load(first) is None
    assert fleet.elsewhere(second) == 4


def test_a_report_counts_only_what_is_not_ours() -> None:
    fleet = Fleet(2, told_in_flight=lambda _: 3)
    fleet.upsert(record(), 0.0)
    target = fleet.eligible("m")[0]
    fleet.report("w0", EngineLoad(running=5, waiting=0, kv_usage=0.1), 1.0)
    assert fleet.elsewhere(target) == 2
    fleet.report("w0", EngineLoad(running=1, waiting=0, kv_usage=0.1), 2.0)
    assert fleet.elsewhere(target) == 0


def test_a_loading_worker_s_event_sources_are_told_when_it_is_ready() -> None:
    listener = Listener()
    fleet = Fleet(2, [listener])
    loading = record(state=WorkerState.LOADING)
    fleet.upsert(loading, 0.0)
    source = EventSource(endpoint="tcp://127.0.0.1:1")
    ready = msgspec.structs.replace(loading, state=WorkerState.READY, events=(source,))
    fleet.upsert(ready, 1.0)
    fleet.upsert(msgspec.structs.replace(ready, state=WorkerState.DRAINING), 2.0)
    assert listener.told == ["+w0:a"]
    assert fleet.worker("w0") is not None


def test_a_worker_that_is_held_back_gets_requests_only_where_no_other_can() -> None:
    fleet = Fleet(2)
    fleet.upsert(record("w0"), 0.0)
    fleet.hold("w0", "a")
    assert eligible(fleet) == ["w0"], "the only one of its model"
    fleet.upsert(record("w1"), 0.0)
    before = fleet.generation
    assert eligible(fleet) == ["w1"]
    fleet.dispatch_failed("w1", "a", "gone")
    assert eligible(fleet) == ["w0"]
    fleet.probe("w1", True, 1.0)
    assert eligible(fleet) == ["w1"]
    fleet.admit("w0", "a")
    assert eligible(fleet) == ["w0", "w1"]
    assert fleet.generation > before
    assert not any(view.suspended or view.warming for view in fleet.views())


def test_holding_back_ends_with_the_incarnation() -> None:
    fleet = Fleet(2)
    for worker_id in ("w0", "w1"):
        fleet.upsert(record(worker_id), 0.0)
    fleet.hold("w0", "another")
    assert eligible(fleet) == ["w0", "w1"]
    fleet.hold("w0", "a")
    assert [view.warming for view in fleet.views()] == [True, False]
    fleet.upsert(record("w0", incarnation="b"), 1.0)
    assert set(eligible(fleet)) == {"w0", "w1"}
    fleet.admit("w0", "a")
    assert not any(view.warming for view in fleet.views())


def test_models_are_unknown_only_when_every_source_has_told_of_its_workers() -> None:
    fleet = Fleet(2)
    assert isinstance(fleet.unknown("m"), UnknownModel)
    fleet.begin_look("registry")
    fleet.begin_look("static")
    fleet.end_look("static")
    refusal = fleet.unknown("m")
    assert isinstance(refusal, NotReady)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "not_ready", 1.0)
    fleet.end_look("registry")
    assert isinstance(fleet.unknown("m"), UnknownModel)


def test_a_model_that_is_to_have_workers_is_known_without_any() -> None:
    fleet = Fleet(2)
    fleet.expect(["m"])
    assert fleet.knows_model("m")
    fleet.expect(["other"])
    assert not fleet.knows_model("m")
