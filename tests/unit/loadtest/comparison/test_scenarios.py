from __future__ import annotations

import pytest

from loadtest.comparison.__main__ import cells_of, estimate_s, parser
from loadtest.comparison.scenarios import AROUND_THE_KNEE, SCENARIOS, scenario
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


def test_the_defaults_go_around_the_knee_on_four_workloads_within_a_quarter_of_an_hour() -> None:
    options = parser().parse_args([])
    cells = cells_of(options)
    names = {cell.scenario.name for cell in cells}
    assert len(names) == 4
    assert {"no-sharing", "one-prefix"} < names
    for name in names:
        levels = {cell.level for cell in cells if cell.scenario.name == name}
        assert levels == set(AROUND_THE_KNEE)
    assert estimate_s(options, cells) < 840.0, "the other routers are installed, too"


def test_peers_and_both_controls_are_compared() -> None:
    names = {cell.contender.name for cell in cells_of(parser().parse_args([]))}
    assert {"rhizome/round_robin", "rhizome/least_loaded"} < names
    assert {"smg/cache_aware", "vllm-router/cache_aware", "vllm-router/kv_aware"} < names


def test_a_full_comparison_takes_what_is_sized_for_simulated_engines_three_times() -> None:
    cells = cells_of(parser().parse_args(["--full"]))
    assert {cell.scenario.name for cell in cells} == SCENARIOS.keys() - {"shared-prefixes"}
    assert {cell.repeat for cell in cells} == {0, 1, 2}


def test_an_unknown_workload_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="no-sharing"):
        scenario("no_sharing")
