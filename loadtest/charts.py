"""Line charts as SVG text: no script, no font, no file but the page itself. Pure.

Colours are the page's CSS variables `--line-0` to `--line-7`, so one drawing serves light and dark.
Lines past the eighth are told apart by dashes as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 8
_WIDTH, _HEIGHT = 560.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 22.0, 14.0, 42.0
_DASHES = ("", "6 4", "2 3")
_DOTS_MAX = 24

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Line:
    """One line; a point without a value is a gap."""

    name: str
    points: Sequence[Point]
    colour: int
    is_dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A value worth a line of its own across the chart."""

    at: float
    text: str
    colour: int | None = None


@dataclass(frozen=True)
class Axis:
    """How values become places: `place` is monotonic; `ticks` makes (value, label) for a range."""

    place: Callable[[float], float]
    ticks: Callable[[float, float], list[tuple[float, str]]]
    begins_at_zero: bool = False


@dataclass(frozen=True)
class Chart:
    """What is drawn."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    x_marks: Sequence[Mark] = ()
    y_marks: Sequence[Mark] = ()


def number(value: float) -> str:
    """A number for an axis or a table: three digits that matter, thousands as k."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 10_000:
        return f"{value / 1e3:.3g}k"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    span = high - low
    if span <= 0:
        return [(low, number(low))]
    step = 10 ** math.floor(math.log10(span / 5))
    step *= next(one for one in (1, 2, 5, 10) if span / (step * one) <= 6)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [((first + place) * step, number((first + place) * step)) for place in range(count)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    values = [step * 10.0**decade for decade in decades for step in steps]
    shown = [value for value in values if low * 0.999 <= value <= high * 1.001]
    return [(value, number(value)) for value in shown] or _linear_ticks(low, high)


def _percentile_ticks(low: float, high: float) -> list[tuple[float, str]]:
    return [(one, f"p{one:g}") for one in (50, 75, 90, 95, 99, 99.9) if low <= one <= high]


LINEAR = Axis(lambda value: value, _linear_ticks, begins_at_zero=True)
LOG = Axis(lambda value: math.log10(max(value, 1e-9)), _log_ticks)
PERCENTILES = Axis(lambda percent: -math.log10(1.0 - min(percent, 99.99) / 100), _percentile_ticks)
"""Equal room for each further nine: where the tail is."""


def draw(chart: Chart) -> str:
    """The chart as an `<svg>` element; a chart without values says so."""
    xs = [x for line in chart.lines for x, y in line.points if y is not None]
    ys = [y for line in chart.lines for _, y in line.points if y is not None]
    if not xs:
        return '<p class="none">no values</p>'
    ys += [mark.at for mark in chart.y_marks if mark.at <= 3 * max(ys)]
    across = _Scale(chart.x, xs, _LEFT, _WIDTH - _RIGHT)
    up = _Scale(chart.y, ys, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(chart.title)}">',
        *_frame(chart, across, up),
        *_marks(chart, across, up),
        *(_drawn(line, across, up) for line in chart.lines),
        "</svg>",
    ]
    return "\n".join(parts)


class _Scale:
    """Values of one axis to places on the drawing."""

    def __init__(self, axis: Axis, values: Sequence[float], begin: float, end: float) -> None:
        self.low = 0.0 if axis.begins_at_zero and min(values) >= 0 else min(values)
        self.high = max(values)
        if self.high == self.low:
            self.high = self.low + (abs(self.low) or 1.0)
        self.ticks = axis.ticks(self.low, self.high)
        self._place = axis.place
        self._begin = begin
        self._per_unit = (end - begin) / (axis.place(self.high) - axis.place(self.low))

    def __call__(self, value: float) -> float:
        return self._begin + (self._place(value) - self._place(self.low)) * self._per_unit

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def _frame(chart: Chart, across: _Scale, up: _Scale) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value, label in up.ticks:
        y = up(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 3.5, label, "tick end"))
    for value, label in across.ticks:
        x = across(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 15, label, "tick middle"))
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 6, chart.x_label, "label middle"))
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text class="label middle" transform="translate(13 {middle}) rotate(-90)">'
        f"{escape(chart.y_label)}</text>"
    )
    return parts


def _marks(chart: Chart, across: _Scale, up: _Scale) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for place, mark in enumerate(one for one in chart.x_marks if across.holds(one.at)):
        x = across(mark.at)
        on_left = x > (_LEFT + right) / 2
        shift, anchor = (-4, "end") if on_left else (4, "start")
        parts.append(
            f'<line class="mark" {_stroke(mark.colour)} x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{_TOP}" y2="{bottom}"/>'
        )
        parts.append(_text(x + shift, _TOP + 11 + 13 * place, mark.text, f"note {anchor}"))
    for mark in (one for one in chart.y_marks if up.holds(one.at)):
        y = up(mark.at)
        parts.append(
            f'<line class="mark" {_stroke(mark.colour)} x1="{_LEFT}" x2="{right}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT + 5, y - 4, mark.text, "note start"))
    return parts


def _drawn(line: Line, across: _Scale, up: _Scale) -> str:
    """The line, its dots where they are few, and its name when pointed at."""
    path: list[str] = []
    pen_is_up = True
    places = []
    for x, y in line.points:
        if y is None:
            pen_is_up = True
            continue
        at = f"{across(x):.1f} {up(y):.1f}"
        path.append(f"{'M' if pen_is_up else 'L'}{at}")
        places.append((across(x), up(y), f"{line.name}: {number(y)} at {number(x)}"))
        pen_is_up = False
    dash = _DASHES[1] if line.is_dashed else _DASHES[line.colour // COLOURS % len(_DASHES)]
    drawn = (
        f'<path class="line" {_stroke(line.colour)} stroke-dasharray="{dash}" '
        f'd="{" ".join(path)}"><title>{escape(line.name)}</title></path>'
    )
    if len(places) > _DOTS_MAX:
        return drawn
    dots = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:var(--line-{line.colour % COLOURS})">'
        f"<title>{escape(said)}</title></circle>"
        for x, y, said in places
    )
    return drawn + "".join(dots)


def _stroke(colour: int | None) -> str:
    name = "--muted" if colour is None else f"--line-{colour % COLOURS}"
    return f'style="stroke:var({name})"'


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
