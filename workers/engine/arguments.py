"""vLLM's flags and environment for a model spec: pure functions, no vLLM needed.

Typed fields of the spec and what the worker decides itself (addresses, keys, events) win: a flag
in `engine_args` that would say the same thing a second time is refused, not silently overridden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rhizome.errors import SettingsError
from rhizome.fleet.models import ModelSpec

CPU_KV_CACHE_MEMORY = "256M"
"""KV cache of a CPU rank unless the spec says otherwise; vLLM's own guess fails on many hosts."""

_TYPED = {
    "model": "source",
    "model-tag": "source",
    "served-model-name": "name",
    "revision": "revision",
    "tokenizer-revision": "revision",
    "tensor-parallel-size": "parallel.tensor",
    "pipeline-parallel-size": "parallel.pipeline",
    "data-parallel-size": "parallel.data",
    "enable-expert-parallel": "parallel.expert",
    "max-model-len": "max_model_len",
    "block-size": "block_size",
    "kv-cache-memory-bytes": "kv_cache_memory",
    "max-num-seqs": "max_num_seqs",
    "seed": "seed",
}
_ADAPTERS = "lora-modules"
"""Here also as a mapping of names to paths, as for the simulated engine."""
_SHORT = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size"}
_OWNED = frozenset(
    {
        "api-key",
        "config",
        "enable-prompt-tokens-details",
        "enable-request-id-headers",
        "headless",
        "host",
        "kv-events-config",
        "middleware",
        "port",
        "root-path",
        "uds",
    }
)


def engine_arguments(
    spec: ModelSpec, model: str, kv_events: Mapping[str, Any] | None = None
) -> list[str]:
    """The command line for vLLM's parser; `model` is a directory or hub id.

    `kv_events` is vLLM's `--kv-events-config`. Raises `SettingsError` for a conflict between
    `engine_args` and the rest of the spec.
    """
    passed = _passthrough(spec)
    arguments = [
        *("--model", model, "--served-model-name", spec.name, "--seed", str(spec.seed)),
        *("--enable-prompt-tokens-details", "--enable-request-id-headers"),
        *_sizes(spec),
    ]
    if spec.parallel.expert:
        arguments.append("--enable-expert-parallel")
    if runs_eagerly(spec) and "enforce-eager" not in passed:
        arguments.append("--enforce-eager")
    if kv_events is not None:
        if "enable-prefix-caching" not in passed:
            arguments.append("--enable-prefix-caching")
        arguments += ["--kv-events-config", json.dumps(dict(kv_events), separators=(",", ":"))]
    for flag, value in sorted(passed.items()):
        arguments += _flag(flag, value)
    return arguments


def engine_environment(
    spec: ModelSpec, base: Mapping[str, str], *, model_is_local: bool
) -> dict[str, str]:
    """The environment for the engine's processes, from the worker's own.

    Rhizome's own variables are left out (they may hold secrets). What is set here wins over
    `base`, except for logging and caches, which stay as the user set them.
    """
    environment = {
        name: value for name, value in base.items() if not name.upper().startswith("RHIZOME_")
    }
    environment |= {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "PYTHONUNBUFFERED": "1",
    }
    if model_is_local:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if spec.device == "cpu":
        environment |= {
            "OMP_NUM_THREADS": str(max(1, int(spec.cpus_per_worker))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # On CPU this lets one rank run inside EngineCore instead of in a process of its own.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        if runs_eagerly(spec):
            environment["TORCH_COMPILE_DISABLE"] = "1"
    return environment


def publishes_events(spec: ModelSpec) -> bool:
    """Whether the engine has a prefix cache to tell about."""
    passed = _passthrough(spec)
    return passed.get("enable-prefix-caching", True) is True and passed.get("runner") != "pooling"


def runs_eagerly(spec: ModelSpec) -> bool:
    """On CPU compiling costs half a minute a start; pipeline stages fail without it."""
    eager = _passthrough(spec).get("enforce-eager", True)
    return spec.device == "cpu" and spec.parallel.pipeline == 1 and eager is True


def _sizes(spec: ModelSpec) -> list[str]:
    """The flags of the typed fields that were given or differ from vLLM's default."""
    parallel = spec.parallel
    values = {
        "--revision": spec.revision,
        "--tokenizer-revision": spec.revision,
        "--tensor-parallel-size": parallel.tensor if parallel.tensor > 1 else None,
        "--pipeline-parallel-size": parallel.pipeline if parallel.pipeline > 1 else None,
        "--data-parallel-size": parallel.data if parallel.data > 1 else None,
        "--max-model-len": spec.max_model_len,
        "--block-size": spec.block_size,
        "--max-num-seqs": spec.max_num_seqs,
        "--kv-cache-memory-bytes": _kv_cache_memory(spec),
    }
    return [
        part for flag, value in values.items() if value is not None for part in (flag, str(value))
    ]


def _kv_cache_memory(spec: ModelSpec) -> str | None:
    if spec.kv_cache_memory is None and spec.device == "cpu":
        return CPU_KV_CACHE_MEMORY
    return spec.kv_cache_memory


def _passthrough(spec: ModelSpec) -> dict[str, Any]:
    """`engine_args` by plain flag name (`no-x: true` becomes `x: False`), without conflicts."""
    passed: dict[str, Any] = {}
    for given, value in spec.engine_args.items():
        flag = given.strip().lstrip("-").replace("_", "-")
        negated = flag.startswith("no-") and isinstance(value, bool)
        flag = _SHORT.get(flag, flag).removeprefix("no-" if negated else "")
        _refuse_conflict(spec, given, flag)
        if flag in passed:
            raise SettingsError(f"model {spec.name!r}: engine_args sets {flag!r} twice")
        passed[flag] = not value if negated else value
    return passed


def _refuse_conflict(spec: ModelSpec, given: str, flag: str) -> None:
    if flag in _TYPED:
        raise SettingsError(
            f"model {spec.name!r}: engine_args may not set {given!r}",
            advice=f"Set the model's `{_TYPED[flag]}` instead.",
        )
    if flag in _OWNED or flag.startswith(("ssl-", "uvicorn-")):
        raise SettingsError(
            f"model {spec.name!r}: engine_args may not set {given!r}",
            advice="The worker decides its addresses, keys and event sockets itself.",
        )


def _flag(flag: str, value: Any) -> list[str]:
    if flag == _ADAPTERS and isinstance(value, dict):
        value = [f"{name}={path}" for name, path in value.items()]
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, dict):
        return [f"--{flag}", json.dumps(value, separators=(",", ":"))]
    if isinstance(value, list | tuple):
        return [f"--{flag}", *(str(item) for item in value)]
    return [f"--{flag}", str(value)]
