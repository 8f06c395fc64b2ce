"""What a comparison found: every run, as it was measured and as it is kept."""

from __future__ import annotations

from pathlib import Path

import msgspec

from loadtest.metrics import Balance, Spread
from loadtest.results import Machine, RunResult

SCHEMA = "rhizome.loadtest.comparison/2"
RESULT_FILE = "comparison.json"
REAL_ENGINES = "real vLLM on the CPU"
"""In place of a profile's name."""


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """One contender under one load, once."""

    workload: str
    level: float
    """Share of round robin's knee."""
    rate_per_s: float
    contender: str
    repeat: int
    speed: float
    """Times as fast as their profile that the engines were, with the workload's times to match:
    what the clock showed, times this, is the engines' own time."""
    run: RunResult
    """By the clock."""
    over_floor_ms: Spread | None
    """TTFT minus that of an idle engine which holds every prefix that anybody sent before, by the
    clock."""
    balance: Balance
    """By the engines' own counters, warm-up included."""
    router_cpu_s: float
    """Warm-up included."""
    router_cpu_share: float
    """Of one core."""
    router_rss_bytes: int
    """At the run's end."""
    outside_engines_ms: float | None
    """Mean TTFT of the client less that of the engines: router, network, and waiting there."""
    fleet_cpu_share: float
    """Of one core, for all simulated engines."""
    fleet_lag_ms_p99: float | None
    """How late their event loop was."""
    machine_idle_share: float
    """Of all cores, whoever used them."""
    valid: bool
    invalid_because: list[str]


class ComparisonResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole comparison."""

    schema: str = SCHEMA
    name: str
    command: str
    note: str
    begun_wall_s: float
    took_s: float
    machine: Machine
    versions: dict[str, str]
    """By system."""
    profile: str
    speed: float
    worker_count: int
    cells: list[CellResult]
    faults: list[str]
    """Runs that gave no result, and why."""
    partial: bool


class Findings(msgspec.Struct, kw_only=True):
    """Grows run by run."""

    cells: list[CellResult] = []
    faults: list[str] = []
    """Runs that gave no result, and why."""


def write_comparison(directory: Path, result: ComparisonResult) -> Path:
    """Writes the JSON, whole or not at all; whose home directory it was is not told."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / RESULT_FILE
    part = path.with_name(f"{path.name}.part")
    data = msgspec.json.encode(result).replace(str(Path.home()).encode(), b"~")
    part.write_bytes(msgspec.json.format(data, indent=1) + b"\n")
    part.replace(path)
    return path
