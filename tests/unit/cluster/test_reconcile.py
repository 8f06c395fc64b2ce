from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from cluster.reconcile import Action, History, Observed, Plan, Remove, Start, Stop, plan, surplus
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState

BACKOFF_S_MAX = 60.0


def record(worker_id: str, incarnation: str = "i1", **changes: Any) -> WorkerRecord:
    plain = WorkerRecord(
        worker_id=worker_id,
        incarnation=incarnation,
        model="m",
        url="http://127.0.0.1:1",
        state=WorkerState.READY,
    )
    return msgspec.structs.replace(plain, **changes)


def observed(target: int, *living: str, **changes: Any) -> Observed:
    """Model `m` with ready workers of these ids."""
    seen = Observed(
        specs={"m": ModelSpec(name="m", source="x")},
        targets={"m": target},
        records={one: record(one) for one in living},
        living=frozenset(living),
    )
    return replace(seen, **changes)


class Cluster:
    """Plans step by step, and remembers as the controller does."""

    def __init__(self) -> None:
        self.histories: Mapping[str, History] = {}
        self.now_s = 100.0
        self.notices: tuple[str, ...] = ()

    def step(self, seen: Observed, after_s: float = 1.0) -> tuple[Action, ...]:
        self.now_s += after_s
        made: Plan = plan(seen, self.histories, BACKOFF_S_MAX, self.now_s)
        self.histories, self.notices = made.histories, made.notices
        return made.actions


def test_missing_workers_start_under_the_lowest_free_numbers() -> None:
    actions = Cluster().step(observed(3, "m-1"))
    assert actions == (Start("m-0", "m"), Start("m-2", "m"))


def test_a_new_controller_adopts_what_lives() -> None:
    assert Cluster().step(observed(2, "m-0", "m-1")) == ()


def test_a_worker_without_a_record_yet_is_not_started_twice() -> None:
    assert Cluster().step(observed(1, "m-0", records={})) == ()


def test_workers_started_by_hand_are_left_alone() -> None:
    seen = observed(1, "m-0")
    by_hand = {**seen.records, "own": record("own")}
    assert Cluster().step(replace(seen, records=by_hand)) == ()


def test_the_least_busy_surplus_is_removed() -> None:
    seen = observed(1, "m-0", "m-1", in_flight={"m-0": 0, "m-1": 5})
    assert surplus(seen) == ("m-0", "m-1")
    (action,) = Cluster().step(seen)
    assert action == Remove("m-0", "m has 2 workers and is to have 1")


def test_a_draining_worker_goes_on_leaving_and_counts_for_nothing() -> None:
    seen = observed(2, "m-0", "m-1", draining=frozenset({"m-1"}))
    actions = Cluster().step(seen)
    assert actions == (Remove("m-1", "it is draining"), Start("m-2", "m"))


def test_the_id_of_a_worker_that_was_just_drained_is_not_used_again_at_once() -> None:
    seen = observed(1, draining=frozenset({"m-0"}))
    assert Cluster().step(seen) == (Start("m-1", "m"),)


def test_workers_of_a_model_that_is_not_wanted_any_more_are_removed() -> None:
    seen = observed(1, "m-0", "old-0")
    assert Cluster().step(seen) == (Remove("old-0", "its model is not wanted any more"),)


def test_a_worker_that_was_removed_did_not_die() -> None:
    cluster = Cluster()
    cluster.step(observed(0, "m-0"))
    assert cluster.step(observed(0)) == ()
    assert cluster.notices == ()
    assert cluster.histories == {}


def test_one_death_is_left_to_ray_and_said() -> None:
    cluster = Cluster()
    cluster.step(observed(1, "m-0"))
    assert cluster.step(observed(1, "m-0", records={})) == ()
    assert cluster.notices == ("worker m-0 is silent: its lease has ended",)
    back = record("m-0", "i2", state=WorkerState.LOADING)
    assert cluster.step(observed(1, "m-0", records={"m-0": back})) == ()
    assert "its process died and was brought back" in cluster.notices[0]
    assert cluster.histories["m-0"].deaths == 1


def test_a_failed_engine_is_one_death_however_often_its_record_is_seen() -> None:
    cluster = Cluster()
    failed = record("m-0", state=WorkerState.FAILED, detail="no memory")
    for _ in range(5):
        assert cluster.step(observed(1, "m-0", records={"m-0": failed})) == ()
    assert cluster.histories["m-0"].deaths == 1
    assert cluster.histories["m-0"].cause == "no memory"


def test_a_crash_loop_is_stopped_and_started_again_after_growing_pauses() -> None:
    cluster = Cluster()
    for life in range(2):
        failed = record("m-0", f"i{life}", state=WorkerState.FAILED, detail="bad weights")
        assert cluster.step(observed(1, "m-0", records={"m-0": failed})) == ()
    pauses = []
    for life in range(2, 8):
        failed = record("m-0", f"i{life}", state=WorkerState.FAILED, detail="bad weights")
        stopped = cluster.step(observed(1, "m-0", records={"m-0": failed}))
        assert stopped == (Stop("m-0", "bad weights"),)
        waited = 0.0
        while cluster.step(observed(1, records={"m-0": failed})) == ():
            waited += 1.0
        pauses.append(waited + 1)
    assert pauses == [4, 8, 16, 32, 60, 60]


def test_a_stop_is_repeated_until_the_worker_is_gone() -> None:
    cluster = Cluster()
    for life in range(3):
        failed = record("m-0", f"i{life}", state=WorkerState.FAILED)
        cluster.step(observed(1, "m-0", records={"m-0": failed}))
    for _ in range(10):
        assert isinstance(cluster.step(observed(1, "m-0", records={"m-0": failed}))[0], Stop)
    assert cluster.step(observed(1)) == (Start("m-0", "m"),)
    assert cluster.histories["m-0"].deaths == 3


def test_the_rest_of_a_dead_workers_lease_is_not_a_new_death() -> None:
    cluster = Cluster()
    cluster.step(observed(1, "m-0"))
    still_there = {"m-0": record("m-0")}
    assert cluster.step(observed(1, records=still_there)) == ()
    assert cluster.step(observed(1, records=still_there)) == (Start("m-0", "m"),)
    cluster.step(observed(1, "m-0", records=still_there))
    cluster.step(observed(1, "m-0", records={"m-0": record("m-0", "i2")}))
    assert cluster.histories["m-0"].deaths == 1


def test_a_process_that_died_before_it_could_speak_is_a_death_with_its_cause() -> None:
    cluster = Cluster()
    seen = observed(1, "m-0", records={}, faults={"m-0": "ValueError: no such model"})
    assert cluster.step(seen) == ()
    assert cluster.histories["m-0"].cause == "ValueError: no such model"


def test_a_calm_stretch_forgives_deaths() -> None:
    cluster = Cluster()
    cluster.step(observed(1, "m-0", records={"m-0": record("m-0", state=WorkerState.FAILED)}))
    back = observed(1, "m-0", records={"m-0": record("m-0", "i2")})
    cluster.step(back)
    cluster.step(back, after_s=BACKOFF_S_MAX - 1)
    assert cluster.histories["m-0"].deaths == 1
    cluster.step(back, after_s=1.0)
    assert cluster.histories["m-0"].deaths == 0


def test_a_worker_in_its_pause_is_not_replaced_under_another_number() -> None:
    cluster = Cluster()
    cluster.step(observed(1, "m-0"))
    assert cluster.step(observed(1), after_s=0.1) == ()
    assert "gone for good" in cluster.notices[0]
    assert cluster.step(observed(1), after_s=0.5) == ()
    assert cluster.step(observed(1), after_s=0.5) == (Start("m-0", "m"),)


def test_a_start_after_a_stop_is_no_death() -> None:
    cluster = Cluster()
    for life in range(3):  # Ray brings it back each time; the third time is one too many
        cluster.step(observed(1, "m-0", records={"m-0": record("m-0", f"i{life}")}))
    stopped = cluster.step(observed(1, "m-0", records={"m-0": record("m-0", "i3")}))
    assert isinstance(stopped[0], Stop)
    deaths = cluster.histories["m-0"].deaths
    cluster.step(observed(1))
    assert cluster.step(observed(1), after_s=60) == (Start("m-0", "m"),)
    assert cluster.step(observed(1, "m-0", records={"m-0": record("m-0", "i4")})) == ()
    assert cluster.histories["m-0"].deaths == deaths
