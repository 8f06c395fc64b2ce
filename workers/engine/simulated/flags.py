"""The simulated engine's own flags, given as `engine_args` of a model, and the profile they make.

Typed fields of the spec (`max_model_len`, `block_size`, `max_num_seqs`, `seed`, data parallelism)
mean what they mean for vLLM. `kv_cache_memory` means nothing: the profile says what fits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rhizome.errors import SettingsError
from rhizome.fleet.models import ModelSpec
from workers.engine.simulated.profile import EngineProfile, load_profile

DEFAULT_PROFILE = "llama-3.1-8b-h100"


class SimulationFlags(BaseModel):
    """What `engine_args` may hold; names may be written with dashes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = DEFAULT_PROFILE
    """A built-in engine profile, or a file that `rhizome calibrate` wrote."""
    speed_factor: float = Field(default=1.0, gt=0, le=10_000)
    """How many times as fast as the profile."""
    kv_blocks: int | None = Field(default=None, ge=2)
    """KV blocks of one rank, in place of the profile's."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    scheduling_policy: Literal["fcfs", "priority"] | None = None
    lora_modules: dict[str, str] = Field(default_factory=dict)
    """Adapters: path by served name. The paths are only shown."""
    faults: bool = False
    """Whether clients on loopback may break the worker (`/simulate/fault`)."""


def read_flags(spec: ModelSpec) -> SimulationFlags:
    """The flags of a spec; raises `SettingsError` that names the wrong one."""
    given = {
        name.strip().lstrip("-").replace("-", "_"): value
        for name, value in spec.engine_args.items()
    }
    try:
        return SimulationFlags.model_validate(given)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError(
            f"model {spec.name!r}: engine_args do not fit the simulated engine: {faults}",
            advice=f"It knows {', '.join(SimulationFlags.model_fields)}.",
        ) from error


def profile_of(spec: ModelSpec, flags: SimulationFlags) -> EngineProfile:
    """The profile that the spec asks for; raises `StartError` where nothing fits."""
    profile = load_profile(flags.profile).at_speed(flags.speed_factor)
    size = spec.block_size or profile.block_size
    blocks = flags.kv_blocks or max(2, profile.kv_blocks * profile.block_size // size)
    wanted = {
        "block_size": size,
        "kv_blocks": blocks,
        "max_model_len": spec.max_model_len or min(profile.max_model_len, (blocks - 1) * size),
        "max_num_seqs": spec.max_num_seqs,
        "max_num_batched_tokens": flags.max_num_batched_tokens,
        "policy": flags.scheduling_policy,
    }
    changes = {name: value for name, value in wanted.items() if value is not None}
    try:
        return EngineProfile.model_validate(profile.model_dump() | changes)
    except ValidationError as error:
        raise SettingsError(
            f"model {spec.name!r}: the profile {flags.profile!r} cannot be so changed: "
            f"{error.errors()[0]['msg']}"
        ) from error
