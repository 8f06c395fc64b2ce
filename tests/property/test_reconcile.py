"""Reconciliation over random deaths: targets are reached, and nothing is doubled or lost."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.reconcile import History, Observed, Remove, Start, Stop, plan
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState

BACKOFF_S_MAX = 8.0
TARGET_MAX = 5
SPECS = {name: ModelSpec(name=name, source="x") for name in ("a", "a-1")}


class Cluster:
    """A host and a registry, stepped with the plan; chance decides who dies and how."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.targets = dict.fromkeys(SPECS, 1)
        self.records: dict[str, WorkerRecord] = {}
        self.living: set[str] = set()
        self.draining: set[str] = set()
        self.births = 0
        self.histories: Mapping[str, History] = {}

    def step(self) -> None:
        self.now_s += 1.0
        seen = Observed(
            specs=SPECS,
            targets=self.targets,
            records=dict(self.records),
            living=frozenset(self.living),
            draining=frozenset(self.draining),
        )
        made = plan(seen, self.histories, BACKOFF_S_MAX, self.now_s)
        self.histories = made.histories
        self.draining &= self.living  # the drain request is forgotten soon after
        for action in made.actions:
            if isinstance(action, Start):
                assert action.worker_id not in self.living
                self.living.add(action.worker_id)
                self.born(action.worker_id, action.model)
            elif isinstance(action, Stop):
                assert action.worker_id in self.living
                self.end(action.worker_id)
            elif isinstance(action, Remove):
                assert action.worker_id in self.living
                self.draining.add(action.worker_id)
                if self.rng.random() < 0.5:
                    self.end(action.worker_id)
        for model, target in self.targets.items():
            owned = [one for one in self.living if one.rpartition("-")[0] == model]
            assert len([one for one in owned if one not in self.draining]) <= target

    def born(self, worker_id: str, model: str) -> None:
        self.births += 1
        self.records[worker_id] = WorkerRecord(
            worker_id=worker_id,
            incarnation=f"i{self.births}",
            model=model,
            url="http://127.0.0.1:1",
            state=self.rng.choice([WorkerState.LOADING, WorkerState.READY]),
        )

    def end(self, worker_id: str) -> None:
        self.living.discard(worker_id)
        if self.rng.random() < 0.5:  # else its lease goes on for a while
            self.records.pop(worker_id, None)

    def disturb(self) -> None:
        for one in sorted(self.living):
            record = self.records.get(one)
            chance = self.rng.random()
            if chance < 0.05:
                self.end(one)
            elif chance < 0.1:
                self.born(one, one.rpartition("-")[0])
            elif chance < 0.15:
                self.records.pop(one, None)
            elif chance < 0.2 and record is not None:
                failed = WorkerRecord(
                    worker_id=one,
                    incarnation=record.incarnation,
                    model=record.model,
                    url=record.url,
                    state=WorkerState.FAILED,
                )
                self.records[one] = failed
        if self.rng.random() < 0.1:
            self.targets[self.rng.choice(sorted(SPECS))] = self.rng.randint(0, TARGET_MAX)
        if self.rng.random() < 0.02:
            self.histories = {}  # another controller takes over


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 120))
def test_targets_are_reached_once_deaths_end(seed: int, disturbed_steps: int) -> None:
    cluster = Cluster(Random(seed))
    for _ in range(disturbed_steps):
        cluster.disturb()
        cluster.step()
    for one in cluster.living:
        cluster.born(one, one.rpartition("-")[0])
    for _ in range(60):
        cluster.step()
    owned = sorted(one.rpartition("-")[0] for one in cluster.living)
    assert owned == sorted(
        model for model, target in cluster.targets.items() for _ in range(target)
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_what_is_remembered_is_bounded(seed: int) -> None:
    cluster = Cluster(Random(seed))
    for _ in range(200):
        cluster.disturb()
        cluster.step()
        assert len(cluster.histories) <= 8 * TARGET_MAX
