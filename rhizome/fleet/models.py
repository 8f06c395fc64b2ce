"""What the cluster is asked to run: one typed spec per model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_FORBID = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]


class Parallelism(BaseModel):
    """How one engine group is spread over devices."""

    model_config = _FORBID

    tensor: int = Field(default=1, ge=1, le=64)
    """Tensor-parallel ranks."""
    pipeline: int = Field(default=1, ge=1, le=64)
    """Pipeline stages."""
    data: int = Field(default=1, ge=1, le=256)
    """Data-parallel ranks behind the worker's one HTTP endpoint."""
    expert: bool = False
    """Spread the experts of a mixture-of-experts model over the tensor and data ranks."""

    @property
    def devices(self) -> int:
        """Devices that one worker needs: tensor x pipeline x data."""
        return self.tensor * self.pipeline * self.data


class ScalingBounds(BaseModel):
    """Between how many workers the autoscaler may move a model."""

    model_config = _FORBID

    min_workers: int = Field(default=1, ge=0, le=10_000)
    """Fewest workers."""
    max_workers: int = Field(default=1, ge=0, le=10_000)
    """Most workers."""

    @model_validator(mode="after")
    def _ordered(self) -> ScalingBounds:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) is above max_workers ({self.max_workers})"
            )
        return self


class ModelSpec(BaseModel):
    """One model: where it comes from, how an engine runs it and how many workers it may have."""

    model_config = _FORBID

    name: Name
    """The name that clients ask for."""
    source: str = Field(min_length=1, max_length=4096)
    """A local directory, a hub id, or `demo:llama` / `demo:mixtral` (made on first use)."""
    revision: str | None = None
    """A hub revision to pin; has no meaning for a local directory."""
    engine: Literal["vllm", "simulated"] = "vllm"
    """Which engine runs it."""
    workers: int = Field(default=1, ge=0, le=10_000)
    """Workers to start with."""
    scaling: ScalingBounds | None = None
    """Bounds for the autoscaler; absent means a fixed number of workers."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What a rank runs on: one GPU each, or CPU cores."""
    cpus_per_worker: float = Field(default=0.0, ge=0, le=1024)
    """CPU cores that Ray reserves for each rank."""
    gpu_type: str | None = None
    """Ray accelerator type, e.g. `H100`; absent means any."""
    parallel: Parallelism = Parallelism()
    """Tensor, pipeline, data and expert parallelism."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt plus completion, in tokens; absent means the model's own."""
    block_size: int | None = Field(default=None, ge=1, le=1024)
    """Tokens per KV block; absent means the engine's default."""
    kv_cache_memory: str | None = Field(default=None, pattern=r"^[0-9]+[KMG]?$")
    """Bytes for the KV cache of each rank, e.g. `200M`. Needed on CPU."""
    max_num_seqs: int | None = Field(default=None, ge=1, le=65_536)
    """Sequences that the engine runs at once."""
    seed: int = 0
    """The engine's random seed."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """More of the engine's own flags, by name without dashes, e.g. `{enable-lora: true}`."""

    @property
    def bounds(self) -> ScalingBounds:
        """The autoscaler's bounds; a fixed number where none were given."""
        return self.scaling or ScalingBounds(min_workers=self.workers, max_workers=self.workers)

    @model_validator(mode="after")
    def _workers_within_bounds(self) -> ModelSpec:
        low, high = self.bounds.min_workers, self.bounds.max_workers
        if not low <= self.workers <= high:
            raise ValueError(
                f"workers ({self.workers}) lies outside scaling bounds {low} to {high}"
            )
        return self
