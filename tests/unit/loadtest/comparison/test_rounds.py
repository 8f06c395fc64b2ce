"""What makes a run count."""

from __future__ import annotations

import pytest

from loadtest.comparison.rounds import (
    ENGINES_CPU_SHARE_MAX,
    ENGINES_LAG_MS_P99_MAX,
    MACHINE_IDLE_SHARE_MIN,
    MachineFacts,
    faults_of,
)

ENOUGH = MachineFacts(
    engines_cpu_share=ENGINES_CPU_SHARE_MAX,
    engines_lag_ms_p99=ENGINES_LAG_MS_P99_MAX,
    idle_share=MACHINE_IDLE_SHARE_MIN,
)


def test_a_machine_within_its_limits_is_no_fault() -> None:
    assert faults_of(ENOUGH) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (MachineFacts(0.9, 1.0, 0.5), "0.90 of their core"),
        (MachineFacts(0.1, 21.0, 0.5), "late by 21 ms"),
        (MachineFacts(0.1, None, 0.5), "nobody noted"),
        (MachineFacts(0.1, 1.0, 0.02), "idle for only 2%"),
    ],
)
def test_a_machine_that_was_too_small_says_which_part(facts: MachineFacts, said: str) -> None:
    (fault,) = faults_of(facts)
    assert said in fault
