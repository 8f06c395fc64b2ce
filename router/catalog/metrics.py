"""What is counted of products."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from rhizome.errors import RequestError


class CatalogMetrics:
    """One object per process, given its registry. Models are those that the catalog names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._fallbacks = Counter(
            "router_fallbacks_total",
            "Requests sent elsewhere because the fleet could not serve their model in time.",
            ("model", "reason"),
            registry=registry,
        )
        self._loads = Counter(
            "router_catalog_loads_total",
            "Changed files of the catalog by what became of them.",
            ("result",),
            registry=registry,
        )

    def fell_back(self, model: str, reason: RequestError) -> None:
        """A request for the model goes elsewhere."""
        self._fallbacks.labels(model, reason.code).inc()

    def looked(self, is_usable: bool) -> None:
        """The catalog's file had changed."""
        self._loads.labels("loaded" if is_usable else "refused").inc()
