"""What `make bench-spread` plays and says, on small fleets."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from loadtest.spread.cases import AFFINITY, CASES, NOBODY
from loadtest.spread.findings import Verdict, row_of, verdicts_of
from loadtest.spread.playing import capacity_per_s, play

SMALL = replace(CASES["zipf"], speeds=(1.0,) * 3, duration_s=12.0, warmup_s=4.0)


def test_the_capacity_is_what_the_fleet_answers_and_no_more_than_is_sent() -> None:
    one = replace(CASES["one-prefix"], speeds=(1.0,))
    slow = replace(one, speeds=(0.5,))
    fast_per_s, slow_per_s = capacity_per_s(one, 0), capacity_per_s(slow, 0)
    assert 0.4 * fast_per_s < slow_per_s < 0.6 * fast_per_s


def test_pure_affinity_keeps_a_prefix_where_it_belongs_and_cost_does_not() -> None:
    rows = {policy: row_of(play(SMALL, policy, 15.0, 1)) for policy in (AFFINITY, "cost")}
    assert rows[AFFINITY].in_flight_max_over_mean > rows["cost"].in_flight_max_over_mean
    assert max(rows[AFFINITY].shares) > max(rows["cost"].shares)
    for row in rows.values():
        assert row.failed == 0
        assert sum(row.shares) == pytest.approx(1.0)
        assert len(row.window_shares) == 1


def test_only_what_came_after_the_warm_up_counts() -> None:
    played = play(SMALL, "cost", 15.0, 1)
    after = int((np.asarray(played.columns.arrived_s) >= SMALL.warmup_s).sum())
    assert len(played.ttft_ms(SMALL.warmup_s)) == after < len(played.columns)
    assert len(played.in_flight(SMALL.warmup_s)) == (12.0 - 4.0) / 0.25


def test_every_case_is_judged() -> None:
    rows = {policy: row_of(play(SMALL, policy, 15.0, 1)) for policy in SMALL.policies}
    for case in (one for one in CASES.values() if one.newcomer is None):
        own = msgspec.structs.replace(rows["cost"], case=case.name)
        padded = msgspec.structs.replace(own, window_shares=own.window_shares * 10)
        answered, *claims = verdicts_of(rows, padded)
        assert answered.holds
        assert claims


def test_a_newcomer_is_judged_by_its_first_minute() -> None:
    small = replace(CASES["join"], duration_s=100.0, warmup_s=80.0)
    rows = {policy: row_of(play(small, policy, 20.0, 1)) for policy in small.policies}
    came, nobody = rows["cost"].newcomer, rows[NOBODY].newcomer
    assert came is not None
    assert nobody is not None
    assert came.requests > 5
    assert nobody.requests == 0
    assert all(verdict.holds for verdict in verdicts_of(rows, rows["cost"])[:2])


@pytest.mark.parametrize(("value", "holds"), [(0.9, False), (1.0, True), (2.0, True), (2.1, False)])
def test_a_verdict_holds_within_its_bounds(value: float, holds: bool) -> None:
    verdict = Verdict(case="", claim="", value=value, at_least=1.0, at_most=2.0)
    assert verdict.holds is holds
