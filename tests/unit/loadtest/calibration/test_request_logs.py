from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from loadtest.calibration.fitting import fit
from loadtest.calibration.replay import Demand, replay_open
from loadtest.calibration.request_logs import observations, read_request_log
from rhizome.errors import TraceError
from workers.engine.simulated.profile import EngineProfile

PROFILE = EngineProfile(
    name="test",
    source="made up",
    a_ms=12.0,
    b_ms=0.1,
    c_ms_per_ktok=0.1,
    d_ms_per_ktok=50.0,
    kv_blocks=20_001,
    max_num_seqs=64,
    max_num_batched_tokens=2_048,
    max_model_len=8_192,
)
WALL_S = 1_787_267_980.0


def entry(demand: Demand, first_s: float, last_s: float, waited_s: float = 0.0) -> dict[str, Any]:
    return {
        "request_id": "r",
        "input_toks": demand.prompt_len,
        "output_toks": demand.output_len,
        "arrival_time": WALL_S + demand.at_s,
        "queued_ts": 500.0 + demand.at_s + waited_s,
        "scheduled_ts": 500.0 + demand.at_s + waited_s,
        "first_token_ts": 500.0 + first_s,
        "last_token_ts": 500.0 + last_s,
    }


def write(path: Path, entries: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(each) + "\n" for each in entries)
    return path


def simulated_log(path: Path) -> Path:
    rng = Random(1)
    at_s, demands = 0.0, []
    for _ in range(200):
        at_s += rng.expovariate(2.0)
        demands.append(Demand(at_s, rng.randint(50, 3000), rng.randint(20, 400)))
    entries = []
    for demand, timing in zip(demands, replay_open(PROFILE, demands), strict=True):
        first_s = demand.at_s + timing.ttft_ms / 1e3
        last_s = first_s + (timing.tpot_ms or 0.0) / 1e3 * (demand.output_len - 1)
        entries.append(entry(demand, first_s, last_s))
    return write(path, entries)


def test_the_costs_of_an_engine_are_found_in_half_of_its_log(tmp_path: Path) -> None:
    requests = read_request_log(simulated_log(tmp_path / "log.gz"))
    chosen = [number % 2 == 0 for number in range(len(requests))]
    fitted = fit(observations(requests, chosen), without=frozenset({"e_ms_per_mtok2"}))
    assert fitted.errors["all"].count == 100
    assert fitted.errors["all"].median < 0.03
    assert fitted.costs.a_ms == pytest.approx(PROFILE.a_ms, rel=0.1)
    assert fitted.costs.d_ms_per_ktok == pytest.approx(PROFILE.d_ms_per_ktok, rel=0.2)


def test_the_two_clocks_are_joined_where_a_request_came_in_fastest(tmp_path: Path) -> None:
    rows = [
        entry(Demand(0.0, 10, 3), 1.0, 2.0, waited_s=0.2),
        entry(Demand(1.0, 10, 3), 2.5, 3.0, waited_s=0.05),
    ]
    first, second = read_request_log(write(tmp_path / "log.gz", rows))
    assert first.timing.ttft_ms == pytest.approx(950)
    assert second.timing.ttft_ms == pytest.approx(1450)
    assert second.timing.tpot_ms == pytest.approx(250)
    assert second.arrival_s - first.arrival_s == pytest.approx(1.0)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    good = entry(Demand(0.0, 10, 3), 1.0, 2.0)
    path = write(tmp_path / "log.gz", [good, {"request_id": "x"}])
    with pytest.raises(TraceError, match=r"log\.gz, line 2"):
        read_request_log(path)


def test_an_empty_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no requests"):
        read_request_log(write(tmp_path / "log.gz", []))
