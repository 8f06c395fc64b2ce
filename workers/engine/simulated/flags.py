"""The simulated engine's own flags, given as `engine_args` of a model, and the profile they make.

Typed fields of the spec (`max_model_len`, `block_size`, `max_num_seqs`, `seed`, data parallelism)
mean what they mean for vLLM. `kv_cache_memory` means nothing: the profile says what fits.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

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
    enable_lora: bool = True
    """As for vLLM; adapters are served either way."""
    lora_modules: dict[str, str] = Field(default_factory=dict)
    """Adapters: path by served name, or `name=path` of each. The paths are only shown."""
    enable_auto_tool_choice: bool = False
    tool_call_parser: Literal["hermes"] | None = None
    """How tool calls are said; read with `enable_auto_tool_choice` only."""
    enable_scale_out: bool = False
    """Whether prompts are rendered for others (`/v1/chat/completions/render`)."""
    faults: bool = False
    """Whether clients on loopback may break the worker (`/simulate/fault`)."""

    @field_validator("lora_modules", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            return given
        return dict(str(one).split("=", 1) for one in given if "=" in str(one))

    @property
    def reads_tool_calls(self) -> bool:
        return self.enable_auto_tool_choice and self.tool_call_parser is not None


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
