"""Records for tests of what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from loadtest.client.processes import Measured
from loadtest.client.target import TargetFacts
from loadtest.plan import Plan, Slo
from loadtest.records import ProcessFacts, RequestRecord
from loadtest.results import RunResult, Told, result_of
from loadtest.workloads.catalog import Choice
from loadtest.workloads.requests import Api
from loadtest.workloads.shaping import Shape

CALM = ProcessFacts(
    cpu_share=0.2,
    send_lag_ms_p50=0.1,
    send_lag_ms_p99=1.0,
    send_lag_ms_max=30.0,
    loop_lag_ms_p50=0.1,
    loop_lag_ms_p99=1.0,
    loop_lag_ms_max=30.0,
)


def record(number: int = 0, sent_s: float = 0.0, **fields: Any) -> RequestRecord:
    """A request of three tokens, 0.1 s to the first and 0.05 s between them."""
    facts: dict[str, Any] = {
        "tenant": "default",
        "session": f"s{number}",
        "scheduled_s": sent_s,
        "ended_s": sent_s + 0.2,
        "output_asked": 3,
        "first_s": sent_s + 0.1,
        "last_s": sent_s + 0.2,
        "gaps_ms": np.array([50.0, 50.0], "<f4").tobytes(),
        "prompt_tokens": 10,
        "output_tokens": 3,
        "status": 200,
    }
    return RequestRecord(number=number, sent_s=sent_s, **{**facts, **fields})


def run_result(
    *,
    label: str = "run",
    records: list[RequestRecord] | None = None,
    slo: Slo | None = None,
    faults: list[str] | None = None,
    keys: dict[str, str] | None = None,
) -> RunResult:
    """A run's result, of ten requests unless others are given."""
    given = [record(n, n * 0.1, worker=f"w{n % 2}") for n in range(10)]
    choice, shape = Choice(name="sessions"), Shape(duration_s=1.0)
    plan = Plan(
        url="http://h:1",
        model="m",
        tokenizer="d",
        choice=choice,
        shape=shape,
        api=Api.CHAT,
        keys=keys or {},
        slo=slo or Slo(),
    )
    facts = TargetFacts(
        url="http://h:1", model="m", models=["m"], root=None, version="1", max_model_len=None
    )
    measured = Measured(
        1_000.0, given if records is None else records, [CALM], faults if faults else []
    )
    told = Told(label, "rhizome loadtest run")
    return result_of(plan, facts, {"name": "sessions"}, measured, told)
