"""Whether the workers asked for fit into this machine's memory, told before they are started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from rhizome.errors import NotEnoughMemory
from rhizome.fleet.models import ModelSpec

_GIB = 2**30
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}

# Measured with vLLM 0.32 on CPU: the actor and its engine core hold about 1.1 GiB beside weights
# and KV cache; Ray, router, controller, runner and Valkey together about 0.9 GiB.
_WORKER_BYTES = int(1.2 * _GIB)
_RANK_BYTES = int(0.7 * _GIB)
_SIMULATED_BYTES = int(0.2 * _GIB)
_CLUSTER_BYTES = int(1.0 * _GIB)
_CGROUP = Path("/sys/fs/cgroup")


def require_memory(
    models: Sequence[ModelSpec], directories: Mapping[str, Path], available_bytes: int
) -> None:
    """Raises `NotEnoughMemory` with the sum unless all workers fit beside each other.

    `directories` maps a model's name to where its weights are; a hub id is no directory and counts
    without them.
    """
    parts = {
        spec.name: spec.workers * worker_bytes(spec, directories.get(spec.name)) for spec in models
    }
    needed = _CLUSTER_BYTES + sum(parts.values())
    if needed <= available_bytes:
        return
    listed = ", ".join(
        f"{spec.workers} x {spec.name} {_gib(parts[spec.name])}" for spec in models if spec.workers
    )
    raise NotEnoughMemory(
        f"the cluster needs about {_gib(needed)} of memory and {_gib(available_bytes)} is free "
        f"({listed}, the rest {_gib(_CLUSTER_BYTES)})",
        advice="Ask for fewer workers with --workers, a smaller `kv_cache_memory`, or end others.",
    )


def worker_bytes(spec: ModelSpec, directory: Path | None) -> int:
    """Estimated host memory of one worker, in bytes; weights on a GPU do not count."""
    if spec.engine == "simulated":
        return _SIMULATED_BYTES
    ranks = spec.parallel.devices
    total = _WORKER_BYTES + (ranks - 1) * _RANK_BYTES
    if spec.device == "gpu":
        return total
    total += ranks * kv_cache_bytes(spec)
    if directory is not None and directory.is_dir():
        weights = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        total += weights * spec.parallel.data
    return total


def kv_cache_bytes(spec: ModelSpec) -> int:
    """What the spec's `kv_cache_memory` means, in bytes; 0 where there is none."""
    text = spec.kv_cache_memory
    if not text:
        return 0
    return int(text.rstrip("KMG")) * _UNITS.get(text[-1], 1)


def available_bytes() -> int:
    """Memory that processes started now can have: the machine's, or what the cgroup leaves."""
    free: int = psutil.virtual_memory().available
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        return free if limit == "max" else min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        return free


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.1f} GiB"
