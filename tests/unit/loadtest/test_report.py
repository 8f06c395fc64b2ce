"""The page: whole, by itself, and true to the numbers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from loadtest.charts import LINEAR, LOG, PERCENTILES, Axis, Chart, Line, Mark, draw, number
from loadtest.records import ErrorKind
from loadtest.report import render_report
from loadtest.results import Knee, SweepResult
from tests.unit.loadtest.records import record, run_result


def chart(line: Line, x: Axis = LINEAR, y: Axis = LINEAR) -> Chart:
    return Chart("title", "x", "y", [line], x, y, [Mark(2.0, "knee")], [Mark(1.0, "promised")])


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    """The strokes of the first line."""
    path = ElementTree.fromstring(svg).find("path")  # noqa: S314 - our own drawing
    assert path is not None
    strokes: list[list[tuple[float, float]]] = []
    for pen, x, y in re.findall(r"([ML])([\d.-]+) ([\d.-]+)", path.attrib["d"]):
        if pen == "M":
            strokes.append([])
        strokes[-1].append((float(x), float(y)))
    return strokes


def test_higher_values_are_drawn_higher_and_later_ones_to_the_right() -> None:
    (stroke,) = points_of(draw(chart(Line("a", [(0, 1.0), (1, 2.0), (4, 8.0)], 0))))
    assert [x for x, _ in stroke] == sorted(x for x, _ in stroke)
    assert [y for _, y in stroke] == sorted((y for _, y in stroke), reverse=True)
    assert all(0 <= x <= 560 and 0 <= y <= 280 for x, y in stroke)


def test_a_missing_value_is_a_gap() -> None:
    strokes = points_of(draw(chart(Line("a", [(0, 1.0), (1, None), (2, 2.0), (3, 3.0)], 0))))
    assert [len(stroke) for stroke in strokes] == [1, 2]


@pytest.mark.parametrize("y", [LINEAR, LOG])
@pytest.mark.parametrize("values", [[5.0], [3.0, 3.0], [0.002, 9e6], [1e-9, 1.0]])
def test_any_range_is_drawn(values: list[float], y: Axis) -> None:
    line = Line("<a&b>", list(enumerate(values)), 11)
    assert ElementTree.fromstring(draw(chart(line, y=y))) is not None  # noqa: S314 - our own drawing


def test_each_nine_has_the_same_room() -> None:
    nines = [(90.0, 1.0), (99.0, 1.0), (99.9, 2.0)]
    (stroke,) = points_of(draw(chart(Line("a", nines, 0), x=PERCENTILES)))
    first, second = stroke[1][0] - stroke[0][0], stroke[2][0] - stroke[1][0]
    assert first == pytest.approx(second, abs=0.2)


def test_a_chart_without_values_says_so() -> None:
    assert "no values" in draw(chart(Line("a", [(0, None)], 0)))


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0, 0.1234, 12.34, 1234.4, 12345.0, 2.5e6)] == [
        "0", "0.123", "12.3", "1234", "12.3k", "2.5M",
    ]  # fmt: skip


def test_the_page_needs_nothing_but_itself() -> None:
    page = render_report([run_result(label="<one & only>"), run_result(label="two")], "A title")
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|<script", page)
    assert "&lt;one &amp; only&gt;" in page
    assert "<one & only>" not in page
    assert page.count("<svg") == 8
    assert "prefers-color-scheme: dark" in page


def test_the_page_tells_what_does_not_count() -> None:
    failed = [record(0), record(1, error=ErrorKind.HTTP_5XX, status=503, detail="<no worker>")]
    page = render_report([run_result(records=failed, faults=["client process 0 died"])])
    assert "not valid" in page
    assert ">partial<" in page
    assert "client process 0 died" in page
    assert "503: &lt;no worker&gt;" in page
    assert "1 http_5xx" in page


def test_a_sweep_shows_its_knee_and_its_levels() -> None:
    levels = [run_result(label="s") for _ in range(3)]
    knee = Knee(goodput_share_min=0.9, rate_per_s=4.0, is_beyond=False)
    sweep = SweepResult(label="s", levels=levels, knee=knee, partial=False)
    too_much = Knee(goodput_share_min=0.9, rate_per_s=None, is_beyond=False)
    none = SweepResult(label="t", levels=levels[:1], knee=too_much, partial=False)
    page = render_report([sweep, none])
    assert "the knee is at 4 requests/s" in page
    assert "even the lowest load is more than it carries" in page
    assert page.count("<svg") == 12


def test_a_run_without_an_answer_has_a_page() -> None:
    assert "no request was answered" in render_report([run_result(records=[])])
