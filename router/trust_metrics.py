"""Metrics of trust and of contained faults, read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from router.faults import Faults, Part
from router.metrics import LiveMetrics
from router.probing import ProbeEnd, TrustProber
from router.trust.book import TrustBook
from router.trust.causes import State


def trust_metrics(
    book: TrustBook, prober: TrustProber, faults: Faults
) -> Callable[[], Iterable[LiveMetrics.Reading]]:
    """The readings over the given parts."""

    def read() -> Iterable[LiveMetrics.Reading]:
        yield (
            "router_trust_state",
            "1 for the state that a target is in: how far its KV events are believed.",
            ("target", "state"),
            [
                ((target, state.value), float(trust.state is state))
                for target, trust in book
                for state in State
            ],
        )
        yield (
            "router_trust_credit_scale",
            "What a predicted token of a target is worth in a decision, 0 to 1.",
            ("target",),
            [((target,), trust.credit_scale) for target, trust in book],
        )
        yield (
            "router_trust_changes_total",
            "Changes of a target's trust, by the state and the likely cause that they led to.",
            ("state", "cause"),
            [
                ((state.value, cause.value), float(count))
                for (state, cause), count in book.transitions.items()
            ],
        )
        yield (
            "router_trust_checks_total",
            "Answers and events whose check proved something.",
            ("result",),
            [
                ((name,), float(book.checks[agrees]))
                for name, agrees in (("agrees", True), ("disagrees", False))
            ],
        )
        yield (
            "router_trust_probes_total",
            "Small questions to workers that are not exact, by how they ended.",
            ("end",),
            [((end.value,), float(prober.ends[end])) for end in ProbeEnd],
        )
        yield (
            "router_faults_total",
            "Faults of a part that requests went on without.",
            ("part",),
            [((part.value,), float(faults.counts[part])) for part in Part],
        )

    return read
