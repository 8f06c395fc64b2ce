"""Results as files: what a run was, on what machine, what came out, and whether it counts.

JSON, with a schema name that changes when a field changes its meaning. Unknown fields are passed
over when read, so an older report reads a newer result.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import psutil

from loadtest.client.processes import Measured
from loadtest.client.target import TargetFacts
from loadtest.metrics import Summary, summarize
from loadtest.plan import Limits, Plan
from loadtest.records import ErrorKind, ProcessFacts, RequestRecord
from rhizome import __version__
from rhizome.errors import TraceError
from rhizome.logs import redact

RUN_SCHEMA = "rhizome.loadtest.run/1"
SWEEP_SCHEMA = "rhizome.loadtest.sweep/1"
_UNMET_MIN = 3
"""After so many requests in a row that find no connection a target counts as gone."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the client ran."""

    system: str
    python: str
    cores: int
    memory_bytes: int


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    schema: str = RUN_SCHEMA
    label: str
    rhizome_version: str
    command: str
    begun_wall_s: float
    machine: Machine
    target: TargetFacts
    workload: dict[str, Any]
    """The choice and shape with all defaults; seeds are in it."""
    plan: dict[str, Any]
    """How it was sent, without keys."""
    processes: list[ProcessFacts]
    valid: bool
    invalid_because: list[str]
    partial: bool
    partial_because: list[str]
    summary: Summary


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """The highest load that the target carries."""

    goodput_share_min: float
    rate_per_s: float | None
    """None where even the lowest load is too much."""
    is_beyond: bool
    """Every load that was tried is carried: the knee is at or beyond the rate."""


class SweepResult(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of one workload at several loads, ascending."""

    schema: str = SWEEP_SCHEMA
    label: str
    levels: list[RunResult]
    knee: Knee
    partial: bool


Result = RunResult | SweepResult


class _Schema(msgspec.Struct):
    schema: str


class Told(msgspec.Struct, frozen=True):
    """What whoever starts a run says of it."""

    label: str
    command: str


def result_of(
    plan: Plan, target: TargetFacts, workload: dict[str, Any], measured: Measured, told: Told
) -> RunResult:
    """Puts a run's result together."""
    summary = summarize(measured.records, plan.slo, plan.warmup_s)
    reasons = faults_of(plan.limits, measured.processes, summary)
    missing = measured.faults + lost_target(measured.records)
    return RunResult(
        label=told.label,
        rhizome_version=__version__,
        command=redact(told.command),
        begun_wall_s=measured.begun_wall_s,
        machine=machine_facts(),
        target=target,
        workload=workload,
        plan={
            name: value
            for name, value in msgspec.to_builtins(plan).items()
            if name not in {"keys", "choice", "shape"}
        },
        processes=measured.processes,
        valid=not reasons and not missing,
        invalid_because=reasons + missing,
        partial=bool(missing),
        partial_because=missing,
        summary=summary,
    )


def faults_of(limits: Limits, processes: Sequence[ProcessFacts], summary: Summary) -> list[str]:
    """Why the client, not the target, may have made the numbers; empty for a run that counts."""
    faults = []
    if summary.completed == 0:
        faults.append("no request was answered")
    for place, facts in enumerate(processes):
        for name, limit in msgspec.to_builtins(limits).items():
            value = getattr(facts, name)
            if value > limit:
                faults.append(f"client process {place}: {name} is {value:.3g}, over {limit:g}")
    if refused := summary.errors.get(ErrorKind.CLIENT_FULL.value):
        faults.append(f"the client was full and did not send {refused} requests")
    if summary.prompts_miscounted:
        faults.append(
            f"the server counted other prompt tokens than were sent in "
            f"{summary.prompts_miscounted} requests: it has another tokenizer"
        )
    return faults


def lost_target(records: Sequence[RequestRecord]) -> list[str]:
    """Whether the target went away and was not met again until the end."""
    by_time = sorted(records, key=lambda record: record.sent_s)
    unmet = list(takewhile(lambda record: record.error is ErrorKind.CONNECT, reversed(by_time)))
    if len(unmet) < _UNMET_MIN or len(unmet) == len(by_time):
        return []
    return [
        f"the target was gone from {unmet[-1].sent_s:.1f} s on: the last {len(unmet)} requests "
        "found no connection"
    ]


def machine_facts() -> Machine:
    """This machine."""
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
    )


def write_result(path: Path, result: Result) -> None:
    """Writes it as indented JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    part.replace(path)


def write_records(path: Path, records: Sequence[RequestRecord]) -> None:
    """One JSON object a request and line, gaps left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = msgspec.json.Encoder()
    names = [name for name in RequestRecord.__struct_fields__ if name != "gaps_ms"]
    with path.open("wb") as file:
        for record in records:
            file.write(encoder.encode({name: getattr(record, name) for name in names}) + b"\n")


def read_result(path: Path) -> Result:
    """Raises `TraceError` for what is no result."""
    try:
        data = path.read_bytes()
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema == RUN_SCHEMA:
            return msgspec.json.decode(data, type=RunResult)
        if schema == SWEEP_SCHEMA:
            result = msgspec.json.decode(data, type=SweepResult)
            if result.levels:
                return result
            raise TraceError(f"{path} holds a sweep without a level")
    except (OSError, msgspec.MsgspecError) as error:
        raise TraceError(f"{path} is no result of a load test: {error}") from error
    raise TraceError(f"{path} has the schema {schema!r}, which this version does not know")
