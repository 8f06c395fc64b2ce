"""How fast an engine is and what it can hold, as numbers that somebody measured.

A step takes

    a_ms + b_ms * sequences + c_ms_per_ktok * context / 1000 + d_ms_per_ktok * prefill / 1000
        + e_ms_per_mtok2 * sum(chunk * (context before it + chunk / 2)) / 1e6

with `context` the tokens that the decoding sequences attend to and `prefill` the prompt tokens
computed in the step. The form is the usual roofline one: weights are read once a step (`a`), each
sequence has its own costs (`b`), the KV cache is read (`c`), prompts are computed (`d`, `e`).

The built-in profiles name their source. They promise the averages of those measurements: no
jitter, no outliers, no warm-up.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic import NonNegativeFloat as Cost

from rhizome.errors import StartError

_PACKAGE = "workers.engine.simulated"


class ProfileUnusable(StartError):
    """The engine profile does not exist, cannot be read, or makes no sense."""

    exit_code = 4


class StepWork(NamedTuple):
    """What one step computes, in the terms that decide its length."""

    sequences: int
    decoding: int
    """Sequences among them that compute only their newest token."""
    context_tokens: int
    """Tokens that the decoding ones attend to, in sum."""
    prefill_tokens: int
    """Prompt tokens computed."""
    prefill_area: float = 0.0
    """Sum over the prompts' chunks of tokens in the chunk times tokens before each of them."""


class MixtureOfExperts(BaseModel):
    """How much of `a_ms` is spent on reading experts, of which a small batch touches few.

    A batch of n tokens touches `1 - (1 - active / experts) ** n` of them, when the router of the
    model spreads its tokens evenly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: PositiveInt
    active: PositiveInt
    """Experts that one token uses."""
    expert_ms: PositiveFloat
    """The part of `a_ms` that reads all experts once."""

    def saved_ms(self, tokens: int) -> float:
        """What a step of `tokens` tokens saves against one that touches every expert."""
        return self.expert_ms * (1.0 - self.active / self.experts) ** tokens


class Speculation(BaseModel):
    """Speculative decoding, as its averages: more tokens a step, and a longer step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_per_step: float = Field(ge=1.0)
    """Mean tokens that a decoding sequence gains in one step, the sampled one included."""
    step_factor: float = Field(ge=1.0)
    """What drafting and verifying multiply the time of a step with decoding sequences by."""


class EngineProfile(BaseModel):
    """One engine group: a model on its GPUs with its limits. Times are at speed factor 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    """Where the numbers are from: measurement, engine version, fit error."""
    model: str = ""
    gpu: str = ""
    gpus: int = Field(default=1, ge=0)
    """GPUs of one engine group; 0 on a CPU."""

    a_ms: PositiveFloat
    b_ms: Cost
    c_ms_per_ktok: Cost
    d_ms_per_ktok: Cost
    e_ms_per_mtok2: Cost = 0.0
    moe: MixtureOfExperts | None = None
    speculation: Speculation | None = None
    request_overhead_ms: Cost = 0.0
    """Added to each request before it reaches the scheduler: HTTP, template, tokenizer."""
    token_overhead_ms: Cost = 0.0
    """Added between a step's end and its tokens at the client: detokenizer, HTTP."""

    block_size: PositiveInt = 16
    kv_blocks: int = Field(ge=2)
    """As vLLM counts them (`num_gpu_blocks`): one is its null block, which holds nothing."""
    prefix_caching: bool = True
    max_num_seqs: PositiveInt = 256
    max_num_batched_tokens: PositiveInt = 8192
    max_model_len: PositiveInt
    long_prefill_token_threshold: int = Field(default=0, ge=0)
    """Most prompt tokens of one request in a step while others are there; 0: no such limit."""
    watermark: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the blocks that admitting a request leaves free while others run."""
    policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool = False
    """Whether a step is decided while the one before it runs, as vLLM does on GPUs by default:
    what arrives meanwhile waits one step more."""
    calibration: dict[str, JsonValue] = Field(default_factory=dict)
    """How the numbers were measured, for the reader; nothing is computed from it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kv_blocks * self.block_size < self.max_model_len:
            raise ValueError(
                f"kv_blocks * block_size = {self.kv_blocks * self.block_size} tokens"
                f" cannot hold one sequence of max_model_len = {self.max_model_len}"
            )
        if self.moe is not None and (
            self.moe.active > self.moe.experts or self.moe.expert_ms > self.a_ms
        ):
            raise ValueError("moe: active exceeds experts, or expert_ms exceeds a_ms")
        return self

    @property
    def kv_tokens(self) -> int:
        """Tokens that the cache can hold."""
        return (self.kv_blocks - 1) * self.block_size

    def step_s(self, work: StepWork) -> float:
        """How long a step with that work takes, in seconds."""
        step_ms = (
            self.a_ms
            + self.b_ms * work.sequences
            + self.c_ms_per_ktok * work.context_tokens / 1e3
            + self.d_ms_per_ktok * work.prefill_tokens / 1e3
            + self.e_ms_per_mtok2 * work.prefill_area / 1e6
        )
        if self.moe is not None:
            step_ms -= self.moe.saved_ms(work.decoding + work.prefill_tokens)
        if self.speculation is not None and work.decoding:
            step_ms *= self.speculation.step_factor
        return step_ms / 1e3

    def at_speed(self, factor: float) -> EngineProfile:
        """The same engine, `factor` times as fast in everything."""
        if factor <= 0:
            raise ValueError("a speed factor is positive")
        times = (
            "a_ms",
            "b_ms",
            "c_ms_per_ktok",
            "d_ms_per_ktok",
            "e_ms_per_mtok2",
            "request_overhead_ms",
            "token_overhead_ms",
        )
        changed: dict[str, object] = {name: getattr(self, name) / factor for name in times}
        if self.moe is not None:
            expert_ms = self.moe.expert_ms / factor
            changed["moe"] = self.moe.model_copy(update={"expert_ms": expert_ms})
        return self.model_copy(update=changed)


def built_in_profiles() -> tuple[str, ...]:
    """Names that `load_profile` knows without a file."""
    folder = resources.files(_PACKAGE) / "profiles"
    return tuple(sorted(item.name[:-5] for item in folder.iterdir() if item.name[-5:] == ".json"))


def load_profile(name_or_path: str | Path) -> EngineProfile:
    """The built-in profile of that name, or the one in a JSON file; raises `ProfileUnusable`."""
    try:
        if str(name_or_path) in built_in_profiles():
            item = resources.files(_PACKAGE) / "profiles" / f"{name_or_path}.json"
            return EngineProfile.model_validate_json(item.read_bytes())
        return EngineProfile.model_validate_json(Path(name_or_path).read_bytes())
    except OSError as error:
        raise ProfileUnusable(
            f"no engine profile {str(name_or_path)!r}: {error.strerror or error}",
            advice=f"built in are {', '.join(built_in_profiles())}; or name a JSON file",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the profile"
        raise ProfileUnusable(
            f"engine profile {str(name_or_path)!r}: {where}: {first['msg']}",
            advice="`rhizome calibrate` writes a profile in the right form",
        ) from error
