from __future__ import annotations

import pytest

from loadtest.calibration.evaluation import (
    Errors,
    compare,
    data_folder,
    evaluate_run,
    logged_runs,
    published_sets,
    table,
)
from loadtest.calibration.replay import Timing
from loadtest.calibration.request_logs import read_request_log
from workers.engine.simulated.profile import built_in_profiles, load_profile


def test_every_published_set_has_its_profile_and_fits_it() -> None:
    for each in published_sets():
        assert each.profile in built_in_profiles()
        longest = max(row[0] + row[1] for row in each.rows)
        assert longest <= load_profile(each.profile).max_model_len


def test_every_logged_run_has_its_log() -> None:
    for facts in logged_runs():
        assert len(read_request_log(data_folder() / f"{facts.name}.jsonl.gz")) == 300


def test_a_real_run_is_met_by_a_profile_fitted_to_the_other_half() -> None:
    (facts,) = [each for each in logged_runs() if each.name == "rtxpro6000-llama-3.1-8b"]
    for each in evaluate_run(facts):
        assert each.tpot.count == 150
        assert each.tpot.median < 0.02
        assert each.ttft.median < 0.05


def test_errors_are_relative_to_the_measurement_and_keep_their_direction_as_bias() -> None:
    errors = Errors.of([90.0, 120.0, 50.0], [100.0, 100.0, 100.0])
    assert (errors.count, errors.median, errors.p90) == (3, 0.2, 0.5)
    assert errors.bias == pytest.approx(-0.1)


def test_requests_of_one_token_count_for_the_first_token_only() -> None:
    found = compare("x", "", [Timing(1.0, None), Timing(2.0, 3.0)], [Timing(1, None), Timing(2, 3)])
    assert (found.ttft.count, found.tpot.count) == (2, 1)
    assert "| x | 2 | 0.0% / 0.0% (+0.0%) |" in table([found])
