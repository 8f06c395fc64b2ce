"""Makes a worker's record from what a running vLLM says of itself over HTTP.

Asked are `/v1/models` (name, root, length), `/metrics` (block size, blocks, ranks, the process's
start) and, where no event endpoint was given by hand, `/kv_event_sources`. LoRA adapters are
listed as models with a parent; the worker is known by its base model and serves them, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from router.discovery.asking import Asker, WorkerSilent
from router.discovery.exposition import Sample, SampleReader
from router.discovery.static_worker import OFF, StaticWorker

START_TIME = "process_start_time_seconds"
METRICS_BYTES_MAX = 8 * 2**20
_JSON_BYTES_MAX = 2**20
_CACHE_CONFIG = "vllm:cache_config_info"
_RANKS_MAX = 256
_MODELS_MAX = 1024
_WILDCARDS = ("*", "0.0.0.0", "[::]", "::")  # noqa: S104 - addresses that others bound
_reader = SampleReader((_CACHE_CONFIG, START_TIME))


async def describe(worker: StaticWorker, asker: Asker, looks: int) -> WorkerRecord:
    """The worker's record; raises `WorkerSilent`.

    `looks` tells incarnations apart where the engine does not say when it started: give another
    number whenever it may have been restarted.
    """
    models = await _models(asker)
    model = next(one for one in models if not one.get("parent"))
    status, page = await asker.get("/metrics", METRICS_BYTES_MAX)
    samples = _reader.read(page) if status == 200 else []
    caches = [sample.labels for sample in samples if sample.name == _CACHE_CONFIG]
    cache = caches[0] if caches else {}
    ranks = {labels.get("engine", "0") for labels in caches}
    sources = await _sources(worker, asker, max(1, len(ranks)))
    data_parallel = max(1, len(ranks), *(source.rank + 1 for source in sources))
    return WorkerRecord(
        worker_id=worker.worker_id,
        incarnation=_incarnation(samples, looks),
        model=model["id"],
        adapters=tuple(one["id"] for one in models if one.get("parent") == model["id"]),
        url=worker.url,
        state=WorkerState.READY,
        api_key=worker.key,
        events=sources,
        model_root=_text(model.get("root")) if worker.tokenizer else None,
        block_size=_positive(cache.get("block_size")),
        kv_blocks=_positive(cache.get("num_gpu_blocks")),
        redoes_last_block=worker.eagle,
        chunk_tokens=worker.chunk_tokens,
        max_model_len=_positive(model.get("max_model_len")),
        data_parallel=min(data_parallel, _RANKS_MAX),
        node=worker.host,
    )


def connectable(endpoint: str, host: str) -> str:
    """The endpoint with an address to bind to replaced by the host to connect to."""
    scheme, separator, address = endpoint.partition("://")
    bound, colon, port = address.rpartition(":")
    if scheme == "tcp" and colon and bound in _WILDCARDS:
        return f"{scheme}{separator}{host}:{port}"
    return endpoint


async def _models(asker: Asker) -> Sequence[Mapping[str, Any]]:
    """What is listed, a base model among it."""
    status, listing = await asker.get_json("/v1/models", _JSON_BYTES_MAX)
    if status != 200:
        hint = "; give its key with `key=`" if status in (401, 403) else ""
        raise WorkerSilent(f"/v1/models answered {status}{hint}")
    listed = listing.get("data") if isinstance(listing, dict) else None
    models = [
        one
        for one in (listed if isinstance(listed, list) else ())
        if isinstance(one, dict) and _text(one.get("id"))
    ][:_MODELS_MAX]
    if all(one.get("parent") for one in models):
        raise WorkerSilent("/v1/models lists no base model")
    return models


async def _sources(worker: StaticWorker, asker: Asker, ranks: int) -> tuple[EventSource, ...]:
    if worker.events == OFF:
        return ()
    if worker.events is not None:
        return tuple(
            EventSource(
                endpoint=_of_rank(worker.events, rank),
                replay_endpoint=_of_rank(worker.replay, rank) if worker.replay else None,
                topic=worker.topic,
                rank=rank,
                curve_key=worker.curve,
            )
            for rank in range(ranks)
        )
    try:
        _, listing = await asker.get_json("/kv_event_sources", _JSON_BYTES_MAX)
    except WorkerSilent:
        return ()
    if not isinstance(listing, dict):
        return ()
    found = (_source(rank, told, worker.host) for rank, told in listing.items())
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.rank))


def _source(rank: str, told: Any, host: str) -> EventSource | None:
    """One entry of `/kv_event_sources`; None if it is not a ZMQ publisher's."""
    if not (rank.isascii() and rank.isdigit() and int(rank) < _RANKS_MAX):
        return None
    if not isinstance(told, dict) or told.get("publisher", "zmq") != "zmq":
        return None
    endpoint, replay = _text(told.get("endpoint")), _text(told.get("replay_endpoint"))
    if endpoint is None or not endpoint.startswith(("tcp://", "ipc://")):
        return None
    return EventSource(
        endpoint=connectable(endpoint, host),
        replay_endpoint=connectable(replay, host) if replay is not None else None,
        topic=_text(told.get("topic")) or "",
        rank=int(rank),
    )


def _of_rank(endpoint: str, rank: int) -> str:
    """vLLM's rule: rank r has the port r above that of rank 0."""
    if rank == 0 or not endpoint.startswith("tcp://"):
        return endpoint
    address, _, port = endpoint.rpartition(":")
    return f"{address}:{int(port) + rank}"


def _incarnation(samples: Sequence[Sample], looks: int) -> str:
    started_s = next((one.value for one in samples if one.name == START_TIME), None)
    return f"look-{looks}" if started_s is None else f"start-{started_s:.2f}"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _positive(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    return number if number > 0 else None
