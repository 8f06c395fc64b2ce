from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.calibration.fitting import (
    Costs,
    ErrorSummary,
    Observation,
    Work,
    fit,
    nonnegative_least_squares,
    prefill_work,
)

TRUE = Costs(13.8, 0.05, 0.06, 48.5, 1.1, 5.0)


def synthetic(costs: Costs, rng: Random, noise: float, outliers: float = 0.0) -> list[Observation]:
    """Decode steps and prompts with noise; an outlier is a stall, or the bunch after one."""
    works = [
        Work(1, n, n * context / 1e3) for n in (1, 4, 16, 64, 256) for context in (50, 2000, 8000)
    ]
    works += [prefill_work(n, 2048, requests=1) for n in (4, 64, 512, 2048, 8192, 32768)]
    rows = []
    for work in works * 4:
        factor = 1 + rng.gauss(0, noise)
        if rng.random() < outliers:
            factor *= rng.choice((3.0, 0.003))
        rows.append(Observation("x", work, costs.of_ms(work) * factor))
    return rows


@given(
    st.builds(
        Costs,
        st.floats(1, 50),
        st.floats(0.01, 2),
        st.floats(0.01, 2),
        st.floats(5, 500),
        st.floats(0.1, 100),
        st.floats(1, 50),
    )
)
@settings(max_examples=50, deadline=None)
def test_without_noise_the_fit_is_exact(costs: Costs) -> None:
    fitted = fit(synthetic(costs, Random(1), 0.0))
    assert np.allclose(fitted.costs, costs, rtol=1e-4)
    assert fitted.errors["all"].p90 < 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_outliers_of_both_sides_move_the_large_costs_little(seed: int) -> None:
    fitted = fit(synthetic(TRUE, Random(seed), 0.03, outliers=0.1)).costs
    assert fitted.a_ms == pytest.approx(TRUE.a_ms, rel=0.1)
    assert fitted.d_ms_per_ktok == pytest.approx(TRUE.d_ms_per_ktok, rel=0.1)
    assert fitted.c_ms_per_ktok == pytest.approx(TRUE.c_ms_per_ktok, rel=0.1)


@given(st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_least_squares_is_never_negative_and_no_direction_improves_it(seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    matrix = rng.normal(size=(12, 4))
    target = rng.normal(size=12)
    solution = nonnegative_least_squares(matrix, target)
    gradient = matrix.T @ (target - matrix @ solution)
    assert (solution >= 0).all()
    assert (gradient < 1e-6).all(), "no cost should grow"
    assert np.allclose(gradient[solution > 0], 0, atol=1e-6), "none should change"


def test_a_cost_that_nothing_was_observed_of_is_zero() -> None:
    rows = [Observation("x", Work(1, n), 5 + 0.1 * n) for n in (1, 8, 32)]
    costs = fit(rows).costs
    assert (costs.c_ms_per_ktok, costs.d_ms_per_ktok) == (0.0, 0.0)
    assert costs.b_ms == pytest.approx(0.1)


def test_a_cost_left_out_stays_zero() -> None:
    rows = synthetic(TRUE, Random(1), 0.0)
    assert fit(rows, without=frozenset({"e_ms_per_mtok2"})).costs.e_ms_per_mtok2 == 0.0


def test_nothing_observed_is_an_error() -> None:
    with pytest.raises(ValueError, match="no observations"):
        fit([])


def test_errors_are_summed_up_without_their_sign() -> None:
    summary = ErrorSummary.of([-0.1, 0.2, 0.05])
    assert (summary.count, summary.median, summary.p90) == (3, 0.1, 0.2)
    assert ErrorSummary.of([]) == ErrorSummary(0, 0.0, 0.0)
