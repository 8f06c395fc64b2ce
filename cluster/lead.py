"""One lead's work: observe, decide, act, report, once a step.

A new lead starts from what is observed, not from what was once known: living workers are adopted,
intentions are read from the store. Decisions are made elsewhere: `cluster/reconcile.py` (what to
start and end) and `cluster/scaling` (how many).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec

from cluster.autoscaler import Autoscaler
from cluster.endings import Endings
from cluster.hosts import HostView, WorkerHost
from cluster.metrics import ControllerMetrics
from cluster.probe import in_flight
from cluster.reconcile import Action, History, Observed, Start, Stop, plan, surplus
from cluster.report import ControllerReport, Notice, ReportBoard
from cluster.reporting import model_reports, worker_reports
from cluster.scaling.types import Decision
from cluster.specs import adopt_specs, first_targets, specs_adopted
from rhizome.clock import Clock
from rhizome.errors import ClusterError, StoreUnavailable
from rhizome.fleet.records import WorkerState
from rhizome.settings.tree import Settings
from rhizome.stores.desired import ModelTarget
from rhizome.stores.open import Stores
from rhizome.tasks import Tasks

_log = logging.getLogger(__name__)
_NOTICES_MAX = 50
_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Office:
    """What a lead works with."""

    settings: Settings
    stores: Stores
    host: WorkerHost
    metrics: ControllerMetrics
    clock: Clock


class Lead:
    """The time from winning the lead to losing it."""

    def __init__(
        self, controller_id: str, office: Office, leading: Callable[[], bool], tasks: Tasks
    ) -> None:
        """`leading` is asked before every action; `tasks` end with the lead."""
        settings = office.settings
        self._settings = settings
        self._stores = office.stores
        self._host = office.host
        self._metrics = office.metrics
        self._clock = office.clock
        self._leading = leading
        self._endings = Endings(office.host, office.stores.desired, settings, office.clock, tasks)
        self._autoscaler = Autoscaler(
            settings.controller.scaling, settings.router.admission.in_flight_max_per_worker
        )
        self._board = ReportBoard(office.stores.documents)
        self._report = ControllerReport(controller_id=controller_id, at_wall_s=0.0)
        self._notices: deque[Notice] = deque(maxlen=_NOTICES_MAX)
        self._histories: Mapping[str, History] = {}
        self._blocked: dict[str, str] = {}
        self._nodes: frozenset[str] | None = None
        self._adopted = False

    async def publish(self, trouble: str) -> None:
        """Writes the report; `trouble` says why nothing else is done."""
        self._report = msgspec.structs.replace(
            self._report, at_wall_s=self._clock.wall_s(), trouble=trouble
        )
        await self._board.write(self._report)

    async def step(self) -> None:
        if not self._adopted:
            await adopt_specs(
                self._settings.models, self._stores.desired, self._stores.documents, self._clock
            )
            self._adopted = True
        view = await self._host.look()
        observed = await self._observe(view)
        if not await specs_adopted(self._stores.documents):
            self._adopted = False  # an empty store must not look like a cluster without models
            raise StoreUnavailable("it has lost what was asked of the cluster")
        now_s = self._clock.monotonic_s()
        decisions = self._autoscaler.decide(
            observed,
            self._histories,
            await self._stores.signals.signals(),
            now_s,
            self._clock.wall_s(),
        )
        observed = await self._retarget(observed, decisions)
        busy = [observed.records[one] for one in surplus(observed) if one in observed.records]
        if busy:
            observed = replace(observed, in_flight=await in_flight(busy, _PROBE_TIMEOUT_S))
        backoff_s_max = self._settings.controller.restart_backoff_s_max
        step = plan(observed, self._histories, backoff_s_max, now_s)
        self._histories = step.histories
        for text in (*self._node_changes(view), *step.notices):
            self._notice(text)
        for action in step.actions:
            if not self._leading():
                return
            await self._act(action, observed)
        await self._tell(observed, decisions, view)

    async def _observe(self, view: HostView) -> Observed:
        desired = self._stores.desired
        await first_targets(desired, self._clock)
        targets = await desired.targets()
        records = await self._stores.registry.workers()
        return Observed(
            specs=await desired.specs(),
            targets={model: target.workers for model, target in targets.items()},
            records={record.worker_id: record for record in records},
            living=view.living,
            faults=view.faults,
            draining=await desired.draining(),
        )

    async def _retarget(self, observed: Observed, decisions: Mapping[str, Decision]) -> Observed:
        """Writes the targets that the autoscaler changed."""
        self._metrics.decided(decisions)
        targets = dict(observed.targets)
        for model, decision in decisions.items():
            if decision.target == targets[model] or not self._leading():
                continue
            words = f"{decision.reason.value}: {decision.explain}"
            target = ModelTarget(
                workers=decision.target,
                reason=words,
                by="autoscaler",
                at_wall_s=self._clock.wall_s(),
            )
            await self._stores.desired.put_target(model, target)
            self._notice(
                f"{model} goes from {targets[model]} to {decision.target} workers: {words}"
            )
            targets[model] = decision.target
        return replace(observed, targets=targets)

    async def _act(self, action: Action, observed: Observed) -> None:
        if isinstance(action, Start):
            await self._start(action, observed)
            return
        record = observed.records.get(action.worker_id)
        if isinstance(action, Stop):
            began = self._endings.stop(action.worker_id, action.why)
        else:
            serving = record is not None and record.state in (
                WorkerState.READY,
                WorkerState.DRAINING,
            )
            began = await self._endings.remove(action.worker_id, action.why, serving=serving)
        if began:
            self._metrics.acted("stop" if isinstance(action, Stop) else "remove")

    async def _start(self, action: Start, observed: Observed) -> None:
        try:
            await self._host.start(action.worker_id, observed.specs[action.model])
        except ClusterError as error:
            if self._blocked.get(action.model) != error.message:
                self._notice(f"cannot start worker {action.worker_id}: {error.message}")
            self._blocked[action.model] = error.message
            return
        self._blocked.pop(action.model, None)
        self._metrics.acted("start")
        self._notice(f"starting worker {action.worker_id}")

    async def _tell(
        self, observed: Observed, decisions: Mapping[str, Decision], view: HostView
    ) -> None:
        models = model_reports(observed, decisions, self._blocked)
        workers = worker_reports(observed, self._histories, view.nodes)
        self._report = msgspec.structs.replace(
            self._report,
            models=models,
            workers=workers,
            notices=tuple(self._notices),
        )
        self._metrics.reported(self._report)
        await self.publish("")

    def _node_changes(self, view: HostView) -> list[str]:
        nodes = frozenset(node.node for node in view.nodes)
        before, self._nodes = self._nodes, nodes
        if before is None:
            return []
        gone = [f"node {node} is gone" for node in sorted(before - nodes)]
        return gone + [f"node {node} has joined" for node in sorted(nodes - before)]

    def _notice(self, text: str) -> None:
        _log.info("%s", text)
        self._notices.append(Notice(at_wall_s=self._clock.wall_s(), text=text))
