"""The controller's metrics: one object, given a registry."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cluster.report import ControllerReport
from cluster.scaling.types import Decision

_STEP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ControllerMetrics:
    """Label values are model names of the desired state and words from enums."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._leading = Gauge(
            "controller_leading", "1 while this controller leads.", registry=registry
        )
        self._healthy = Gauge(
            "controller_last_step_ok",
            "1 when the last reconciliation reached the store and Ray.",
            registry=registry,
        )
        self.step_seconds = Histogram(
            "controller_step_seconds",
            "Time of one reconciliation.",
            buckets=_STEP_BUCKETS_S,
            registry=registry,
        )
        self._steps = Counter(
            "controller_steps_total", "Reconciliations by result.", ["result"], registry=registry
        )
        self._actions = Counter(
            "controller_actions_total", "Actions by kind.", ["action"], registry=registry
        )
        self._target = Gauge(
            "controller_target_workers", "Workers asked for.", ["model"], registry=registry
        )
        self._workers = Gauge(
            "controller_workers", "Workers by state.", ["model", "state"], registry=registry
        )
        self._decisions = Counter(
            "controller_scale_decisions_total",
            "Decisions of the autoscaler by reason.",
            ["model", "reason"],
            registry=registry,
        )

    def led(self, leading: bool) -> None:
        self._leading.set(leading)

    def stepped(self, result: str) -> None:
        """`result` is `ok`, or the code of what kept the step from its end."""
        self._steps.labels(result).inc()
        self._healthy.set(result == "ok")

    def acted(self, action: str) -> None:
        self._actions.labels(action).inc()

    def decided(self, decisions: Mapping[str, Decision]) -> None:
        for model, decision in decisions.items():
            self._decisions.labels(model, decision.reason.value).inc()

    def reported(self, report: ControllerReport) -> None:
        """Takes targets and workers from the report; models that left it are forgotten."""
        self._target.clear()
        self._workers.clear()
        for model, one in report.models.items():
            self._target.labels(model).set(one.target)
            workers = [worker for worker in report.workers.values() if worker.model == model]
            leaving = sum(worker.leaving for worker in workers)
            living = sum(worker.living for worker in workers)
            self._workers.labels(model, "ready").set(one.ready)
            self._workers.labels(model, "leaving").set(leaving)
            self._workers.labels(model, "coming").set(max(0, living - leaving - one.ready))
