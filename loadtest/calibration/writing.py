"""From measurements to the profile that the simulated engine reads, with the record beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.calibration.fitting import Fit
from loadtest.calibration.measuring import Measured
from rhizome.errors import SettingsError
from workers.engine.simulated.profile import EngineProfile

_SMALLEST_STEP_MS = 0.001
_BLOCK_SIZE_ASSUMED = 16
_SEQUENCES_ASSUMED = 256
_BUDGET_ASSUMED = 8_192
_LENGTH_ASSUMED = 32_768
_FULL_SEQUENCES_ASSUMED = 16
"""Longest sequences that the cache is taken to hold where its size is not known."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user knows of the engine; None: as measured, else assumed."""

    name: str
    gpu: str = ""
    gpus: int = 1
    block_size: int | None = None
    kv_blocks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    async_scheduling: bool | None = None


@dataclass(frozen=True, slots=True)
class _Limits:
    values: dict[str, int | bool]
    origins: dict[str, str]


def profile_of(
    measured: Measured, given: Given, command: str, machine: dict[str, Any]
) -> EngineProfile:
    """The profile; raises `SettingsError` if what was given contradicts itself."""
    fitted = measured.fit()
    limits = _limits(measured, given)
    costs = {name: float(f"{value:.4g}") for name, value in fitted.costs._asdict().items()}
    costs["a_ms"] = max(costs["a_ms"], _SMALLEST_STEP_MS)
    try:
        return EngineProfile.model_validate(
            {
                "name": given.name,
                "source": _source(measured, fitted),
                "model": measured.served.model,
                "gpu": given.gpu,
                "gpus": given.gpus,
                **costs,
                **limits.values,
                "calibration": _record(measured, fitted, limits, command, machine),
            }
        )
    except ValueError as error:
        raise SettingsError(f"the measurements make no profile: {error}") from error


def write_profile(profile: EngineProfile, path: Path) -> None:
    """Writes it as JSON; raises `SettingsError` where the file cannot be written."""
    try:
        path.write_text(profile.model_dump_json(indent=2, exclude_none=True) + "\n")
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror or error}") from error


def _source(measured: Measured, fitted: Fit) -> str:
    errors = fitted.errors["all"]
    engine = f"vLLM {measured.engine_version}" if measured.engine_version else "unknown engine"
    return (
        f"rhizome calibrate: {errors.count} measurements in {measured.seconds:.0f} s on {engine};"
        f" relative error of the fit: median {errors.median:.1%}, p90 {errors.p90:.1%}"
    )


def _limits(measured: Measured, given: Given) -> _Limits:
    cache = measured.cache
    values: dict[str, int | bool] = {}
    origins: dict[str, str] = {}

    def choose(name: str, measured_value: int | None, assumed: int) -> int:
        given_value: int | None = getattr(given, name)
        known = given_value if given_value is not None else measured_value
        origins[name] = (
            "given" if given_value is not None else "measured" if known is not None else "assumed"
        )
        value = assumed if known is None else known
        values[name] = value
        return value

    length = choose("max_model_len", measured.served.max_model_len, _LENGTH_ASSUMED)
    size = choose("block_size", cache.block_size if cache else None, _BLOCK_SIZE_ASSUMED)
    room = -(-length // size) * _FULL_SEQUENCES_ASSUMED + 1
    choose("kv_blocks", cache.kv_blocks if cache else None, room)
    choose("max_num_seqs", measured.max_num_seqs, _SEQUENCES_ASSUMED)
    seen = max(_BUDGET_ASSUMED, measured.longest_chunk)
    choose("max_num_batched_tokens", measured.max_num_batched_tokens, seen)
    # vLLM's default: on wherever it runs on GPUs, and only vLLM tells a version.
    usual = given.gpus > 0 and bool(measured.engine_version)
    known = given.async_scheduling
    values["async_scheduling"] = usual if known is None else known
    origins["async_scheduling"] = "assumed" if known is None else "given"
    return _Limits(values, origins)


def _record(
    measured: Measured, fitted: Fit, limits: _Limits, command: str, machine: dict[str, Any]
) -> dict[str, Any]:
    return {
        "command": command,
        "engine_version": measured.engine_version,
        "machine": machine,
        "seconds": round(measured.seconds, 1),
        "rounds": measured.rounds,
        "vocabulary": measured.vocabulary,
        "limits": limits.origins,
        "relative_errors": {kind: each.as_dict() for kind, each in fitted.errors.items()},
        "skipped": measured.skipped,
    }
