"""Metrics pages of several processes as one that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from router.processes.pages import labelled, merged


def _page(requests: int, blocks: int) -> str:
    registry = CollectorRegistry()
    counter = Counter("requests_total", "Requests.", ("path",), registry=registry)
    counter.labels('/a "quoted" {path} \\ x').inc(requests)
    Gauge("blocks", "Blocks that this process knows.", registry=registry).set(blocks)
    Histogram("seconds", "Time.", buckets=(1.0,), registry=registry).observe(0.5)
    return generate_latest(registry).decode()


def test_every_sample_of_every_process_is_there_under_its_label() -> None:
    page = merged({"1": _page(3, 10), "2": _page(4, 20)})
    families = {family.name: family for family in text_string_to_metric_families(page)}
    blocks = {s.labels["process"]: s.value for s in families["blocks"].samples}
    assert blocks == {"1": 10, "2": 20}
    counted = [s for s in families["requests"].samples if s.name == "requests_total"]
    assert {(s.labels["process"], s.value) for s in counted} == {("1", 3), ("2", 4)}
    assert {s.labels["path"] for s in counted} == {'/a "quoted" {path} \\ x'}
    assert families["seconds"].type == "histogram"
    assert sum(s.name == "seconds_bucket" for s in families["seconds"].samples) == 4


def test_a_family_has_one_head_and_its_samples_stand_together() -> None:
    lines = merged({"1": _page(1, 1), "2": _page(2, 2)}).splitlines()
    assert lines.count("# TYPE blocks gauge") == 1
    at = [number for number, line in enumerate(lines) if line.startswith("blocks{")]
    assert at == [at[0], at[0] + 1]


def test_a_sample_gets_the_label_whether_or_not_it_has_others() -> None:
    assert labelled("up 1", "7") == 'up{process="7"} 1'
    assert labelled("up{} 1", "7") == 'up{process="7"} 1'
    assert labelled('up{a="b c"} 1', "7") == 'up{process="7",a="b c"} 1'


def test_nobody_answered_is_an_empty_page() -> None:
    assert merged({}) == merged({"1": ""}) == ""
