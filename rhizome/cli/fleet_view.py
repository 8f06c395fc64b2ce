"""What `rhizome status` shows, put together from the stores and the workers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.probe import in_flight
from cluster.report import ControllerReport, ReportBoard
from rhizome.clock import Clock
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.stores.desired import ModelTarget
from rhizome.stores.open import Stores

_PROBE_TIMEOUT_S = 1.0
_SILENT_S = 20.0


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker: what it says of itself, and what the controller knows beyond that."""

    worker_id: str
    model: str
    state: str
    """A `WorkerState`, `starting` or `stopped` for one that is not in the registry, or `warming` or
    `suspended` for one that is ready and held back by a router."""
    node: str = ""
    incarnation: str = ""
    trust: str = ""
    """How far routers believe its KV events, by the one that does least; blank: none was asked."""
    in_flight: int | None = None
    age_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FleetView:
    """The whole picture at one moment."""

    workers: tuple[WorkerRow, ...]
    targets: Mapping[str, ModelTarget]
    report: ControllerReport | None
    """What the controller said last; None when none ever ran."""
    report_age_s: float | None
    leader: str | None
    """Who holds the lead now."""

    @property
    def controller_silent(self) -> bool:
        return self.leader is None or self.report_age_s is None or self.report_age_s > _SILENT_S


async def read_fleet(stores: Stores, clock: Clock) -> FleetView:
    """Asks the stores, and every ready worker for its load; raises `StoreUnavailable`."""
    records = {record.worker_id: record for record in await stores.registry.workers()}
    draining = await stores.desired.draining()
    report = await ReportBoard(stores.documents).read()
    leader = await stores.lease.holder("controller")
    serving = [
        one for one in records.values() if one.state in (WorkerState.READY, WorkerState.DRAINING)
    ]
    loads = await in_flight(serving, _PROBE_TIMEOUT_S)
    now_wall_s = clock.wall_s()
    rows = [
        _row(record, loads.get(record.worker_id), record.worker_id in draining, now_wall_s)
        for record in records.values()
    ]
    if report is not None:
        rows += _unregistered(report, records)
        rows = [_with_deaths(row, report) for row in rows]
    return FleetView(
        workers=tuple(sorted(rows, key=lambda row: (row.model, row.worker_id))),
        targets=await stores.desired.targets(),
        report=report,
        report_age_s=None if report is None else max(0.0, now_wall_s - report.at_wall_s),
        leader=leader,
    )


def _row(record: WorkerRecord, load: int | None, draining: bool, now_wall_s: float) -> WorkerRow:
    started_s = record.started_wall_s
    return WorkerRow(
        worker_id=record.worker_id,
        model=record.model,
        state=WorkerState.DRAINING.value if draining else record.state.value,
        node=record.node,
        incarnation=record.incarnation.removeprefix("inc-")[:8],
        in_flight=load,
        age_s=max(0.0, now_wall_s - started_s) if started_s else None,
        detail=record.detail,
    )


def _unregistered(report: ControllerReport, records: Mapping[str, WorkerRecord]) -> list[WorkerRow]:
    return [
        WorkerRow(
            worker_id=worker_id,
            model=worker.model,
            state="starting" if worker.living else "stopped",
            detail=worker.waiting,
        )
        for worker_id, worker in report.workers.items()
        if worker_id not in records
    ]


def _with_deaths(row: WorkerRow, report: ControllerReport) -> WorkerRow:
    """The row with the cause of the worker's last death, if it died lately."""
    worker = report.workers.get(row.worker_id)
    if worker is None or not worker.deaths or worker.cause in row.detail:
        return row
    times = "once" if worker.deaths == 1 else f"{worker.deaths} times"
    words = f"died {times} lately: {worker.cause}"
    detail = f"{row.detail}; {words}" if row.detail else words
    return replace(row, detail=detail)
