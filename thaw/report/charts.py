"""The geometry of charts: where lines, dots, ticks and labels stand. How they look is up to the style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 400, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 24, 42
_MOST_POINTS = 160
_MOST_DOTS = 40

Range = tuple[float, float]
_Scale = Callable[[float], float]
Tick = tuple[float, str]
"""Where it stands, in units of the picture, and what it says."""


@dataclass(frozen=True)
class Series:
    """One line to draw; `colour` is an index into the palette of the style sheet."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False
    sizes: Sequence[float] = ()
    """Radius of each dot; empty for equal dots."""
    joined: bool = True
    """Whether a line joins the dots."""


@dataclass(frozen=True)
class Line:
    """A series, laid out."""

    name: str
    points: str
    dots: list[tuple[float, float, float, str]]
    """x, y, radius, and what the dot says when it is pointed at."""
    colour: int
    dashed: bool
    joined: bool


@dataclass(frozen=True)
class Chart:
    """All that the template needs to draw a chart."""

    title: str
    summary: str
    """The chart in words, for readers who cannot see it."""
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    panels: list[tuple[float, float, str]] = field(default_factory=list)
    """Left edge, right edge and name of each part of the x axis, where it has parts."""
    legend: list[Line] = field(default_factory=list)

    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(
    title: str,
    summary: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    x_marks: Sequence[tuple[float, str]] | None = None,
    panels: Sequence[tuple[float, float, str]] = (),
) -> Chart:
    """Return a chart of these series, at least one of them with a point; ranges are those of the data if not given.

    `x_marks` replaces the ticks of the x axis, `panels` (from, to, name) divides it.
    """
    x_range = x_range or _extent([value for one in series for value in one.x])
    y_range = y_range or _extent([value for one in series for value in one.y])
    across, down = _scale(x_range, LEFT, WIDTH - RIGHT), _scale(y_range, HEIGHT - BOTTOM, TOP)
    lines = [_line(one, across, down) for one in series if len(one.x)]
    marks = x_marks if x_marks is not None else [(value, _short(value)) for value in ticks(*x_range)]
    return Chart(
        title,
        summary,
        x_label,
        y_label,
        x_ticks=[(across(value), text) for value, text in marks],
        y_ticks=[(down(value), _short(value)) for value in ticks(*y_range)],
        lines=lines,
        panels=[(across(start), across(end), name) for start, end, name in panels],
        legend=list({line.name: line for line in lines}.values()),
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values from low to high, at most so many and one: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * most >= (high - low) * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _scale(values: Range, start: float, end: float) -> _Scale:
    """Return the map from a range of values to a range of the picture, to a tenth of a unit."""
    rate = (end - start) / ((values[1] - values[0]) or 1.0)
    return lambda value: round(start + (value - values[0]) * rate, 1)


def _extent(values: Sequence[float]) -> Range:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _line(series: Series, across: _Scale, down: _Scale) -> Line:
    step = max(1, math.ceil(len(series.x) / _MOST_POINTS))
    kept = sorted({*range(0, len(series.x), step), len(series.x) - 1})
    places = [(across(series.x[index]), down(series.y[index])) for index in kept]
    dots = []
    if len(series.x) <= _MOST_DOTS:
        for index, (x, y) in zip(kept, places, strict=True):
            radius = round(series.sizes[index], 1) if len(series.sizes) else 2.5
            dots.append((x, y, radius, f"{series.name}: {_short(series.x[index])}, {series.y[index]:.3f}"))
    points = " ".join(f"{x:g},{y:g}" for x, y in places)
    return Line(series.name, points, dots, series.colour, series.dashed, series.joined)


def _short(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
