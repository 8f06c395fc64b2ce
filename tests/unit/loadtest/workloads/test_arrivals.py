"""Arrivals: Poisson at the rate asked for, along curves in ServeGen's format."""

from __future__ import annotations

from itertools import pairwise, takewhile
from pathlib import Path
from random import Random

import pytest

from loadtest.workloads.arrivals import Poisson, RateCurve
from rhizome.errors import TraceError


def test_poisson_arrivals_have_the_rate_and_the_scatter_of_poisson() -> None:
    times_s = list(takewhile(lambda at_s: at_s < 2000.0, Poisson(5.0).times(Random(1))))
    assert len(times_s) == pytest.approx(10_000, rel=0.05)
    gaps = [later - earlier for earlier, later in pairwise(times_s)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 / mean == pytest.approx(1.0, abs=0.05)


def test_a_curve_holds_each_rate_in_its_bin(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("t_s,rate_rps\n100,10\n200,0\n300,40\n")
    curve = RateCurve.read(path)
    times_s = list(curve.times(Random(3)))
    counts = [sum(low <= at_s < low + 100 for at_s in times_s) for low in (0, 100, 200)]
    assert counts[0] == pytest.approx(1000, rel=0.1)
    assert counts[1] == 0
    assert counts[2] == pytest.approx(4000, rel=0.1)
    assert curve.mean_rate_per_s == pytest.approx(50 / 3)
    assert max(times_s) < 300.0


def test_a_scaled_curve_passes_faster_at_the_rate_asked_for() -> None:
    curve = RateCurve((0.0, 100.0), (10.0, 30.0), 200.0)
    asked = curve.scaled(4.0, 1.0, 10.0)
    assert asked.end_s == 20.0
    assert asked.mean_rate_per_s == pytest.approx(4.0)
    assert asked.rates_per_s[1] / asked.rates_per_s[0] == pytest.approx(3.0)
    assert curve.scaled(None, 0.5, 10.0).rates_per_s == (5.0, 15.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t_s,rate_rps\n0,1\nx,2\n", ":3: not two numbers"),
        ("0,1\n10,1,1\n", ":2: not two numbers"),
        ("0,1\n0,2\n", ":2: time goes back"),
        ("0,1\n5,-1\n", ":2: t_s and rate_rps must be finite"),
        ("0,1\n", "fewer than two rates"),
        ("0,0\n1,0\n", "no rate above 0"),
    ],
)
def test_a_broken_curve_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        RateCurve.read(path)
    assert said in caught.value.message
