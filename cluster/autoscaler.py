"""Feeds the pure scaling decision, one model after the other, and keeps its states.

Left out: reading signals and writing targets, which the controller does around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.names import by_model
from cluster.reconcile import History, Observed
from cluster.scaling.decide import decide
from cluster.scaling.demand import sum_signals
from cluster.scaling.types import Decision, Demand, Observation, Reason, ScalingState
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.cluster import ScalingSettings
from rhizome.stores.signals import ModelSignal


class Autoscaler:
    """The scaling of all models."""

    def __init__(self, settings: ScalingSettings, in_flight_max_per_worker: int) -> None:
        self._settings = settings
        self._in_flight_max = in_flight_max_per_worker
        self._states: dict[str, ScalingState] = {}

    def decide(
        self,
        observed: Observed,
        histories: Mapping[str, History],
        signals: Sequence[ModelSignal],
        now_s: float,
        now_wall_s: float,
    ) -> dict[str, Decision]:
        """The decision for every model of the desired state that has a target."""
        owned = by_model(observed.living - observed.draining, observed.specs)
        decisions = {}
        for model, spec in observed.specs.items():
            if model not in observed.targets:
                continue
            state = self._states.get(model, ScalingState())
            if spec.scaling is None or not self._settings.enabled:
                decisions[model] = Decision(observed.targets[model], Reason.FIXED, "", state)
                continue
            demand = sum_signals(signals, model, now_wall_s)
            seen = self._observation(spec, observed, owned[model], histories, demand)
            decisions[model] = decide(state, seen, self._settings, now_s)
        self._states = {model: decision.state for model, decision in decisions.items()}
        return decisions

    def _observation(
        self,
        spec: ModelSpec,
        observed: Observed,
        workers: Sequence[str],
        histories: Mapping[str, History],
        demand: Demand | None,
    ) -> Observation:
        records = [observed.records[one] for one in workers if one in observed.records]
        ready = [record for record in records if record.state is WorkerState.READY]
        ready_ids = {record.worker_id for record in ready}
        failing = {one for one in workers if histories.get(one, History()).deaths}
        bounds = spec.bounds
        return Observation(
            target=observed.targets[spec.name],
            min_workers=bounds.min_workers,
            max_workers=bounds.max_workers,
            ready=len(ready),
            loading=len(set(workers) - ready_ids - failing),
            room_per_worker=min((self._room(record) for record in ready), default=1),
            demand=demand,
        )

    def _room(self, record: WorkerRecord) -> int:
        per_rank = min(record.max_num_seqs or self._in_flight_max, self._in_flight_max)
        return max(1, per_rank * record.data_parallel)
