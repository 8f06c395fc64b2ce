"""Turns what was observed and decided into the report's rows: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.names import by_model
from cluster.placement import NodeResources, shortage
from cluster.reconcile import History, Observed
from cluster.report import ModelReport, WorkerReport
from cluster.scaling.types import Decision
from rhizome.fleet.records import WorkerState


def model_reports(
    observed: Observed, decisions: Mapping[str, Decision], blocked: Mapping[str, str]
) -> dict[str, ModelReport]:
    """One row a model of the desired state."""
    owned = by_model(observed.living - observed.draining, observed.specs)
    rows = {}
    for model, spec in observed.specs.items():
        records = [observed.records[one] for one in owned[model] if one in observed.records]
        decision = decisions.get(model)
        rows[model] = ModelReport(
            target=observed.targets.get(model, 0),
            ready=sum(record.state is WorkerState.READY for record in records),
            min_workers=spec.bounds.min_workers,
            max_workers=spec.bounds.max_workers,
            scaling=decision.reason.value if decision else "",
            explain=decision.explain if decision else "",
            trouble=blocked.get(model, ""),
        )
    return rows


def worker_reports(
    observed: Observed, histories: Mapping[str, History], nodes: Sequence[NodeResources]
) -> dict[str, WorkerReport]:
    """One row a worker that lives or waits for its next start."""
    rows = {}
    for model, workers in by_model(observed.living | histories.keys(), observed.specs).items():
        for one in workers:
            past = histories.get(one, History())
            waiting = ""
            if one in observed.living and one not in observed.records and model:
                waiting = shortage(observed.specs[model], nodes) or "starting"
            rows[one] = WorkerReport(
                model=model,
                living=one in observed.living,
                leaving=past.leaving or one in observed.draining,
                deaths=past.deaths,
                cause=past.cause,
                waiting=waiting,
            )
    return rows
