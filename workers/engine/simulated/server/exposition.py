"""`/metrics` as vLLM 0.32 writes it: its names, labels and types, from live state.

What the simulation does not have (GPU counters, multi-modal caches, external caches) is there and
stays zero, so that dashboards and autoscalers find all they ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.server.rank import Rank
from workers.engine.simulated.server.stats import Histogram

CONTENT_TYPE = b"text/plain; version=1.0.0; charset=utf-8"
MOUNTED_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
"""Of what the same path answers to other methods, and with a slash at its end."""


class _Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float


_ALWAYS_ZERO = (
    "estimated_flops_per_gpu",
    "estimated_read_bytes_per_gpu",
    "estimated_write_bytes_per_gpu",
    "external_prefix_cache_queries",
    "external_prefix_cache_hits",
    "mm_cache_queries",
    "mm_cache_hits",
)


def exposition(ranks: Sequence[Rank], model: str) -> bytes:
    """The page."""
    lines: list[str] = []
    for name, kind, samples in _families(ranks, model):
        lines.append(f"# HELP vllm:{name} {name.replace('_', ' ').capitalize()}.")
        lines.append(f"# TYPE vllm:{name} {kind}")
        lines += [
            f"vllm:{sample_name}{_labels(labels)} {float(value)}"
            for sample_name, (labels, value) in samples
        ]
    return ("\n".join(lines) + "\n").encode()


_Family = tuple[str, str, Iterable[tuple[str, _Sample]]]


def _families(ranks: Sequence[Rank], model: str) -> Iterator[_Family]:
    own = [{"engine": str(number), "model_name": model} for number in range(len(ranks))]
    pairs = list(zip(own, ranks, strict=True))

    def of(name: str, kind: str, values: Iterable[_Sample]) -> _Family:
        return name, kind, [(name, one) for one in values]

    for name in _ALWAYS_ZERO:
        yield of(f"{name}_total", "counter", [_Sample(labels, 0) for labels, _ in pairs])
    gauges: dict[str, Sequence[float]] = {
        "num_requests_running": [rank.scheduler.running for rank in ranks],
        "num_requests_waiting": [rank.scheduler.waiting for rank in ranks],
        "kv_cache_usage_perc": [rank.scheduler.kv_usage for rank in ranks],
    }
    for name, values in gauges.items():
        yield of(name, "gauge", map(_Sample, own, values))
    yield of("num_requests_waiting_by_reason", "gauge", _waiting_by_reason(pairs))
    yield of("engine_sleep_state", "gauge", _sleep_states(pairs))
    for name, values in _counters(ranks).items():
        yield of(f"{name}_total", "counter", map(_Sample, own, values))
    yield of("request_success_total", "counter", _finished(pairs))
    yield of("prompt_tokens_by_source_total", "counter", _sources(pairs))
    yield of("prompt_tokens_cached_by_source_total", "counter", _cached_sources(pairs))
    yield of("admission_rejections_total", "counter", _rejections(model))
    for name, histograms in _histograms(ranks).items():
        samples = [
            sample
            for labels, one in zip(own, histograms, strict=True)
            for sample in _buckets(name, labels, one)
        ]
        yield name, "histogram", samples
    yield of("lora_requests_info", "gauge", [])
    yield of("cache_config_info", "gauge", _cache_config(ranks))


def _counters(ranks: Sequence[Rank]) -> dict[str, list[int]]:
    stats = [rank.stats for rank in ranks]
    return {
        "prefix_cache_queries": [one.prefix_queries for one in stats],
        "prefix_cache_hits": [one.prefix_hits for one in stats],
        "num_preemptions": [one.preemptions for one in stats],
        "prompt_tokens": [one.prompt_tokens for one in stats],
        "prompt_tokens_cached": [one.cached_tokens for one in stats],
        "generation_tokens": [one.generation_tokens for one in stats],
    }


def _histograms(ranks: Sequence[Rank]) -> dict[str, list[Histogram]]:
    stats = [rank.stats for rank in ranks]
    return {
        "request_prompt_tokens": [one.prompt_sizes for one in stats],
        "request_generation_tokens": [one.output_sizes for one in stats],
        "iteration_tokens_total": [one.step_tokens for one in stats],
        "time_to_first_token_seconds": [one.first_token for one in stats],
        "inter_token_latency_seconds": [one.between_tokens for one in stats],
        "request_time_per_output_token_seconds": [one.per_token for one in stats],
        "e2e_request_latency_seconds": [one.whole for one in stats],
        "request_queue_time_seconds": [one.queued for one in stats],
        "request_inference_time_seconds": [one.inference for one in stats],
        "request_prefill_time_seconds": [one.prefill for one in stats],
        "request_decode_time_seconds": [one.decode for one in stats],
    }


_Pairs = Sequence[tuple[dict[str, str], Rank]]


def _waiting_by_reason(pairs: _Pairs) -> Iterator[_Sample]:
    for labels, rank in pairs:
        yield _Sample(labels | {"reason": "capacity"}, rank.scheduler.waiting)
        yield _Sample(labels | {"reason": "deferred"}, 0)


def _sleep_states(pairs: _Pairs) -> Iterator[_Sample]:
    for labels, _ in pairs:
        for state, value in (("awake", 1), ("weights_offloaded", 0), ("discard_all", 0)):
            yield _Sample(labels | {"sleep_state": state}, value)


def _finished(pairs: _Pairs) -> Iterator[_Sample]:
    for labels, rank in pairs:
        for reason, count in rank.stats.finished.items():
            yield _Sample(labels | {"finished_reason": reason}, count)


def _sources(pairs: _Pairs) -> Iterator[_Sample]:
    for labels, rank in pairs:
        cached = rank.stats.cached_tokens
        computed = rank.stats.prompt_tokens - cached
        yield _Sample(labels | {"source": "local_compute"}, computed)
        yield _Sample(labels | {"source": "local_cache_hit"}, cached)
        yield _Sample(labels | {"source": "external_kv_transfer"}, 0)


def _cached_sources(pairs: _Pairs) -> Iterator[_Sample]:
    for labels, rank in pairs:
        yield _Sample(labels | {"source": "device"}, rank.stats.cached_tokens)
        for source in ("host", "p2p", "disk", "external_unspecified"):
            yield _Sample(labels | {"source": source}, 0)


def _rejections(model: str) -> Iterator[_Sample]:
    for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
        yield _Sample({"model_name": model, "reason": reason}, 0)


def _buckets(
    name: str, labels: Mapping[str, str], histogram: Histogram
) -> Iterator[tuple[str, _Sample]]:
    running = 0
    for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
        running += count
        words = "+Inf" if bound is None else str(float(bound))
        yield f"{name}_bucket", _Sample({**labels, "le": words}, running)
    yield f"{name}_count", _Sample(labels, running)
    yield f"{name}_sum", _Sample(labels, histogram.total)


def _cache_config(ranks: Sequence[Rank]) -> Iterator[_Sample]:
    for number, rank in enumerate(ranks):
        profile: EngineProfile = rank.profile
        labels = {
            "block_size": str(profile.block_size),
            "cache_dtype": "auto",
            "enable_prefix_caching": str(profile.prefix_caching),
            "engine": str(number),
            "gpu_memory_utilization": "0.92",
            "kv_cache_size_tokens": str(profile.kv_blocks * profile.block_size),
            "num_cpu_blocks": "None",
            "num_gpu_blocks": str(profile.kv_blocks),
            "prefix_caching_hash_algo": "sha256",
        }
        yield _Sample(labels, 1)


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}"
