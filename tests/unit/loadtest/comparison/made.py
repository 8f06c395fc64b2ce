"""Results of comparisons, made up."""

from __future__ import annotations

import numpy as np

from loadtest.client.target import TargetFacts
from loadtest.comparison.results import CellResult, ComparisonResult
from loadtest.metrics import Balance, WorkerLoad, spread, summarize
from loadtest.plan import Slo
from loadtest.records import ErrorKind, RequestRecord
from loadtest.results import Machine, RunResult

MACHINE = Machine(system="Linux", python="3.11", cores=2, memory_bytes=2**34)
LOAD = WorkerLoad(requests=4, prompt_tokens=400, cached_tokens=200, output_tokens=40)


def record(number: int, ttft_s: float, error: ErrorKind | None = None) -> RequestRecord:
    """A request of 100 prompt tokens, half of them cached, and 10 output tokens."""
    first_s = number + ttft_s
    return RequestRecord(
        number=number,
        tenant="default",
        session=str(number),
        scheduled_s=float(number),
        sent_s=float(number),
        ended_s=first_s + 0.45,
        output_asked=10,
        first_s=None if error else first_s,
        last_s=None if error else first_s + 0.45,
        prompt_tokens=100,
        cached_tokens=50,
        output_tokens=10,
        error=error,
    )


def cell(
    contender: str = "rhizome/cost",
    *,
    level: float = 1.0,
    repeat: int = 0,
    ttft_s: float = 0.2,
    valid: bool = True,
    failed: int = 0,
    workload: str = "sessions",
    speed: float = 1.0,
    load: WorkerLoad = LOAD,
    router_cpu_s: float = 0.02,
) -> CellResult:
    """A run of four requests, `failed` more that failed."""
    records = [record(number, ttft_s) for number in range(4)]
    records += [record(number + 4, 0.0, ErrorKind.HTTP_5XX) for number in range(failed)]
    run = RunResult(
        label=contender,
        rhizome_version="0",
        command="c",
        begun_wall_s=0.0,
        machine=MACHINE,
        target=TargetFacts(
            url="u", model="m", models=["m"], root=None, version=None, max_model_len=None
        ),
        workload={},
        plan={},
        processes=[],
        valid=valid,
        invalid_because=[],
        partial=False,
        partial_because=[],
        summary=summarize(records, Slo()),
    )
    return CellResult(
        workload=workload,
        level=level,
        rate_per_s=10.0 * level,
        contender=contender,
        repeat=repeat,
        speed=speed,
        run=run,
        over_floor_ms=spread(np.array([ttft_s * 500.0])),
        balance=Balance(workers={"w": load}, requests_max_over_mean=1.0, tokens_max_over_mean=1.0),
        router_cpu_s=router_cpu_s,
        router_cpu_share=0.1,
        router_rss_bytes=2**26,
        outside_engines_ms=5.0,
        fleet_cpu_share=0.1,
        fleet_lag_ms_p99=2.0,
        machine_idle_share=0.5,
        valid=valid,
        invalid_because=[] if valid else ["the client was late"],
    )


def comparison(cells: list[CellResult], *, partial: bool = False) -> ComparisonResult:
    """All of them as one result."""
    return ComparisonResult(
        name="made",
        command="python -m loadtest.comparison",
        note="",
        begun_wall_s=0.0,
        took_s=60.0,
        machine=MACHINE,
        versions={"rhizome": "0", "smg": "1"},
        profile="p",
        speed=1.0,
        worker_count=1,
        cells=cells,
        faults=[],
        partial=partial,
    )
