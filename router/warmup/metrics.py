"""Metrics of warm-ups."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)


class WarmupMetrics:
    """Counts warm-ups, with labels from the fleet's models and from `WarmupEnd`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "router_warmups_total",
            "Warm-ups of workers by how they ended.",
            ("model", "end"),
            registry=registry,
        )
        self._tokens = Counter(
            "router_warmup_tokens_total",
            "Prompt tokens replayed to workers to warm them.",
            ("model",),
            registry=registry,
        )
        self._seconds = Histogram(
            "router_warmup_seconds",
            "How long a worker was held back for its warm-up.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )

    def ended(self, model: str, end: str, tokens: int, seconds: float) -> None:
        """A worker's warm-up is over, however it went."""
        self._ended.labels(model, end).inc()
        self._tokens.labels(model).inc(tokens)
        self._seconds.labels(model).observe(max(0.0, seconds))
