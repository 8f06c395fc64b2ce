from __future__ import annotations

import pytest

from loadtest.comparison.__main__ import cells_of, estimate_s, parser
from loadtest.comparison.scenarios import FULL_LEVELS, SCENARIOS, scenario
from rhizome.errors import SettingsError


def test_a_workload_for_slow_engines_takes_and_promises_as_much_more_time() -> None:
    sessions = scenario("sessions")
    slow = sessions.at_speed(0.5)
    assert slow.knee_per_s == sessions.knee_per_s / 2
    assert slow.choice.settings["think_s"] == sessions.choice.settings["think_s"] * 2
    assert slow.choice.settings["output_tokens"] == sessions.choice.settings["output_tokens"]
    assert slow.slo.ttft_ms == (sessions.slo.ttft_ms or 0.0) * 2
    assert sessions.at_speed(1.0) == sessions


def test_there_are_controls_that_share_nothing_and_that_share_everything() -> None:
    assert {"no-sharing", "one-prefix"} <= SCENARIOS.keys()


def test_a_full_comparison_goes_around_the_knee_on_four_workloads() -> None:
    around = [name for name, one in SCENARIOS.items() if one.full_levels == FULL_LEVELS]
    assert len(around) == 4
    assert {"no-sharing", "one-prefix"} <= set(around)


def test_the_defaults_end_within_a_quarter_of_an_hour() -> None:
    options = parser().parse_args([])
    cells = cells_of(options)
    assert {cell.repeat for cell in cells} == {0, 1, 2}
    assert estimate_s(options, cells) < 840.0, "the other routers are installed, too"


def test_an_unknown_workload_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="no-sharing"):
        scenario("no_sharing")
