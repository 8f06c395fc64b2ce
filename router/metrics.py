"""The router's metrics: one object per process, given its registry.

Labels come from enums or from names that the fleet bounds; a model that nobody serves is counted
as `unknown`. Gauges are read from live state at scrape time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rhizome.errors import RequestError
from rhizome.outcome import Outcome
from rhizome.render.outcomes import Why
from router.call import Call
from router.instruments import Counter, Histogram
from router.placement import Assignment

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600
)  # fmt: skip
_TOKENS = (0, 16, 64, 256, 1024, 4096, 16_384, 65_536)


class RouterMetrics:
    """Counts what happens to requests."""

    def __init__(self, registry: CollectorRegistry, knows_model: Callable[[str], bool]) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"router_{name}", text, labels, registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"router_{name}", text, ("model",), buckets=buckets, registry=registry)

        self._knows_model = knows_model
        self.requests = counter(
            "requests_total", "Requests by how they ended.", "route", "model", "outcome"
        )
        self.refusals = counter(
            "refusals_total", "Requests answered with an error of the router's own.", "code"
        )
        self.decisions = counter(
            "decisions_total", "Routing decisions by the policy's reason.", "reason"
        )
        self.attempts_failed = counter(
            "attempts_failed_total", "Dispatches that failed before the first byte.", "model"
        )
        self.prompt_tokens = counter(
            "prompt_tokens_total", "Prompt tokens as the engines counted them.", "model"
        )
        self.completion_tokens = counter(
            "completion_tokens_total", "Completion tokens as the engines counted them.", "model"
        )
        self.predicted_cached_tokens = counter(
            "predicted_cached_tokens_total",
            "Prompt tokens that the chosen worker was believed to hold.",
            "model",
        )
        self.actual_cached_tokens = counter(
            "actual_cached_tokens_total", "Prompt tokens that the engine had cached.", "model"
        )
        self.prompts = counter(
            "prompts_total",
            "Prompts by whether their token ids are known (`exact`), or why not.",
            "model",
            "why",
        )
        self.seconds = histogram("request_seconds", "From the accepted request to its end.")
        self.first_byte_seconds = histogram(
            "first_byte_seconds", "From the accepted request to a stream's first byte."
        )
        self.admission_seconds = histogram(
            "admission_seconds", "From the accepted request to the choice of its worker."
        )
        self.loop_lag = Histogram(
            "router_loop_lag_seconds",
            "How late the event loop was, looked at ten times a second.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.prediction_error_tokens = histogram(
            "prediction_error_tokens",
            "Predicted minus reported cached tokens; below 0, the engine reused more.",
            (*(-one for one in reversed(_TOKENS) if one), *_TOKENS),
        )

    def decided(self, call: Call, assignment: Assignment) -> None:
        """A worker was chosen for the call."""
        self.decisions.series[(assignment.choice.reason,)].value += 1
        waited_s = assignment.assigned_at_s - call.accepted_at_s
        self.admission_seconds.series[(call.body.model,)].observe(waited_s if waited_s > 0 else 0.0)

    def rendered(self, model: str, why: Why) -> None:
        """A prompt's token ids are known, or not for that reason."""
        self.prompts.series[model if self._knows_model(model) else "unknown", why].value += 1

    def loop_late(self, late_s: float) -> None:
        """The event loop was late by so much."""
        self.loop_lag.observe(late_s)

    def retried(self, assignment: Assignment) -> None:
        """An attempt failed before its first byte."""
        self.attempts_failed.labels(assignment.job.model).inc()

    def refused(self, error: RequestError) -> None:
        """The router answered with an error of its own."""
        self.refusals.labels(error.code).inc()

    def settled(self, call: Call, outcome: Outcome, now_s: float) -> None:
        """The call has ended; called exactly once for each."""
        model = call.body.model if self._knows_model(call.body.model) else "unknown"
        self.requests.series[call.endpoint.path, model, outcome].value += 1
        took_s = now_s - call.accepted_at_s
        self.seconds.series[(model,)].observe(took_s if took_s > 0 else 0.0)
        assignment, usage = call.assignment, call.usage
        if assignment is None:
            return
        if assignment.first_byte_at_s is not None:
            first_s = assignment.first_byte_at_s - call.accepted_at_s
            self.first_byte_seconds.labels(model).observe(max(0.0, first_s))
        if usage is None:
            return
        self.prompt_tokens.series[(model,)].value += usage.prompt_tokens
        self.completion_tokens.series[(model,)].value += usage.completion_tokens or 0
        if usage.cached_tokens is not None and assignment.job.prompt.exact:
            predicted, actual = assignment.predicted_tokens, usage.cached_tokens
            self.predicted_cached_tokens.labels(model).inc(predicted)
            self.actual_cached_tokens.labels(model).inc(actual)
            self.prediction_error_tokens.labels(model).observe(predicted - actual)


class LiveMetrics(Collector):
    """Metrics computed from live state whenever somebody scrapes.

    `read` yields `(name, help, label names, samples)` with samples of `(label values, value)`; a
    name that ends in `_total` is a counter, any other a gauge.
    """

    Reading = tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]

    def __init__(self, registry: CollectorRegistry, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registration must not read state that is still being built."""
        return []

    def collect(self) -> Iterable[Metric]:
        for name, text, labels, samples in self._read():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, text, labels=labels)
            for values, value in samples:
                family.add_metric(values, value)
            yield family
