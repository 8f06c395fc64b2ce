"""The router's instruments show what prometheus_client's own would show."""

from __future__ import annotations

import prometheus_client as theirs
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from router import instruments as ours

BUCKETS = (0.5, 1, 10)
values = st.lists(
    st.tuples(st.sampled_from("ab"), st.floats(0, 100) | st.sampled_from(BUCKETS)), max_size=30
)


def page(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


@given(values=values)
def test_the_page_is_the_same(values: list[tuple[str, float]]) -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    counters = (
        ours.Counter("x_total", "Text.", ("label",), one),
        theirs.Counter("x_total", "Text.", ("label",), registry=other),
    )
    histograms = (
        ours.Histogram("y", "Text.", ("label",), buckets=BUCKETS, registry=one),
        theirs.Histogram("y", "Text.", ("label",), buckets=BUCKETS, registry=other),
    )
    plain = (
        ours.Histogram("z", "Text.", buckets=BUCKETS, registry=one),
        theirs.Histogram("z", "Text.", buckets=BUCKETS, registry=other),
    )
    for label, value in values:
        for counter in counters:
            counter.labels(label).inc(value)
        for histogram in histograms:
            histogram.labels(label).observe(value)
        for unlabelled in plain:
            unlabelled.observe(value)
    assert page(one) == page(other)


def test_a_counter_without_labels_is_shown_before_it_counts() -> None:
    registry = CollectorRegistry()
    counter = ours.Counter("x_total", "Text.", (), registry)
    assert registry.get_sample_value("x_total") == 0
    counter.inc()
    assert registry.get_sample_value("x_total") == 1
