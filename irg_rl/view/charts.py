"""Draws a chart as SVG. Colours and dash patterns are classes of the style sheet, so a chart follows dark mode."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from irg_rl.evaluate.health import Points
from irg_rl.evaluate.health_checks import shown
from irg_rl.view.curves import Chart

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 34
"""Space around the plot in units of the SVG, for the numbers of the axes."""
COLOURS, DASHES = 8, 4
SMOOTHED_FROM = 40
"""A line with at least this many points is drawn pale, with its running mean above it."""
LOG_RATIO = 30.0
"""A logarithmic scale is used only if the largest value is at least this many times the smallest one."""


@dataclass(frozen=True)
class AxisTick:
    """A number of an axis: its place in the SVG, and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class ChartDrawing:
    """One line of a drawn chart. `pale` is the path of the single points, or empty. `path` is the path of the line, and
    `last` is the text of its last value."""

    label: str
    css: str
    path: str
    pale: str
    last: str


@dataclass(frozen=True)
class ChartImage:
    """A chart, ready for the template. `data` is JSON for the script: the points of all lines in values and in
    places."""

    title: str
    x_label: str
    lines: list[ChartDrawing]
    x_ticks: list[AxisTick]
    y_ticks: list[AxisTick]
    data: str

    width, height, left, right, top, bottom = WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM


def draw(chart: Chart) -> ChartImage:
    """Return the chart with all places computed. A chart without points has no lines and no ticks."""
    points = [point for line in chart.lines for point in line.points]
    if not points:
        return ChartImage(chart.title, chart.x_label, [], [], [], "[]")
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    values = [y for _, y in points]
    is_log = chart.log_scale and min(values) > 0 and max(values) / min(values) >= LOG_RATIO
    scale = math.log10 if is_log else float
    low_y, high_y = _range(scale(min(values)), scale(max(values)))

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (0.5 if high_x == low_x else (x - low_x) / (high_x - low_x))

    def at_y(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high_y - scale(y)) / (high_y - low_y)

    lines, data = [], []
    for line in chart.lines:
        smoothed = running_mean(line.points) if len(line.points) >= SMOOTHED_FROM else line.points
        css = f"c{line.colour % COLOURS} d{line.dash % DASHES}"
        pale = _path([(at_x(x), at_y(y)) for x, y in line.points]) if smoothed is not line.points else ""
        path = _path([(at_x(x), at_y(y)) for x, y in smoothed])
        lines.append(ChartDrawing(line.label, css, path, pale, shown(line.points[-1][1])))
        data.append({
            "label": line.label, "css": css,
            "points": [[round(at_x(x), 1), round(at_y(y), 1), x, shown(y)] for x, y in line.points],
        })  # fmt: skip
    exponents = range(math.ceil(low_y), math.floor(high_y) + 1)
    y_ticks = [10.0**e for e in exponents] if is_log and len(exponents) > 1 else None
    if y_ticks is None:
        y_ticks = [10**t if is_log else t for t in steps(low_y, high_y, 4)]
    return ChartImage(
        chart.title, chart.x_label, lines,
        [AxisTick(at_x(x), shown(x)) for x in steps(low_x, high_x, 5) if low_x <= x <= high_x],
        [AxisTick(at_y(y), shown(y)) for y in y_ticks if low_y <= scale(y) <= high_y],
        json.dumps(data),
    )  # fmt: skip


def sparkline(values: Sequence[float], width: int = 120, height: int = 28) -> str:
    """Return the path of a small line without axes. It is empty if there are fewer than two values."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    size = (high - low) or 1.0
    return _path([
        (2 + (width - 4) * place / (len(values) - 1), 2 + (height - 4) * (high - value) / size)
        for place, value in enumerate(values)
    ])  # fmt: skip


def steps(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.7 * rough)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def running_mean(points: Points) -> Points:
    """Return the points with each value replaced by the mean of a twentieth of all values around it."""
    half = max(2, len(points) // 40)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    smooth = []
    for place, (x, _) in enumerate(points):
        low, high = max(0, place - half), min(len(points), place + half + 1)
        smooth.append((x, (sums[high] - sums[low]) / (high - low)))
    return smooth


def _range(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an axis: a little more than the range of the values, and never an empty range."""
    if low == high:
        edge = abs(low) * 0.1 or 1.0
        return low - edge, high + edge
    edge = 0.05 * (high - low)
    return low - edge, high + edge


def _path(places: Sequence[tuple[float, float]]) -> str:
    if len(places) == 1:  # a line of no length with round ends is a dot
        places = [places[0], places[0]]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
