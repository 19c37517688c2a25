"""Draw the figures of a study. Each figure has one message, 95 % intervals, and axes with units. A line below the
figure (the stamp) shows the number of prompts (n), the seeds, the commit and the recipe digest."""

import base64
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from irg_rl.errors import InputError
from irg_rl.evaluate.intervals import Measure
from irg_rl.report.curves import STYLE

ACROSS = 3
"""Largest number of panels (subplots) side by side."""
COLOURS = ("#0b6e4f", "#c8553d", "#2a6f97", "#d08c2e", "#7d5ba6", "#8d99ae", "#0b3c5d", "#a23b72")
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Plate:
    """A finished figure as SVG and PNG. The caption explains what the figure shows."""

    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes

    @property
    def address(self) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


@dataclass(frozen=True)
class PlateLine:
    """One line of a figure: measured values `y` at the positions `x`.

    `dashed` is True if the line shows a bound or a comparison, not a condition that the study varies. `colour` is the
    number of the colour and marker. Lines with the same number look the same in all panels (subplots). If `colour` is
    None, the position of the line in its panel is used as the number.
    """

    label: str
    x: Sequence[float]
    y: Sequence[Measure]
    dashed: bool = False
    colour: int | None = None


@contextmanager
def canvas(name: str, panels: int, width: float = 4.0, height: float = 3.1) -> Iterator[tuple[Figure, list[Axes]]]:
    """Context manager: create a figure with `panels` subplots, at most three side by side, in the style of the reports.
    Yield the figure and the axes of its subplots. `name` is used only in the error message. Raises InputError if
    `panels` is 0."""
    if not panels:
        raise InputError(
            f"figure {name!r} has nothing to show: no case of what it counts occurred; take more or other "
            "prompts (evaluation.prompts, study.prompts), or other settings of the study"
        )
    columns = min(panels, ACROSS)
    rows = -(-panels // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.4, width * columns + 1.6), height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for spare in axes[panels:]:
            spare.remove()
        yield figure, list(axes[:panels])


def _label_left(axes: Sequence[Axes], label: str) -> None:
    for place in axes[::ACROSS]:
        place.set_ylabel(label)


def finish(figure: Figure, name: str, title: str, caption: str, stamp: str) -> Plate:
    """Add a title and a stamp to a figure, and return the figure as a Plate, together with the caption. The stamp is a
    text with the number of prompts, the seeds, the commit and the recipe digest. It is printed below the figure, so
    every copy of the figure has it."""
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", fontweight="bold")
    stamp = textwrap.fill(stamp, int(18 * figure.get_figwidth()))  # 18 characters of this font size fit into an inch
    figure.supxlabel(stamp, fontsize=7, color="#777777", x=0.01, ha="left")
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=160)
    return Plate(name, title, caption, svg.getvalue(), png.getvalue())


def lines_plate(
    name: str,
    title: str,
    caption: str,
    stamp: str,
    panels: Mapping[str, Sequence[PlateLine]],
    *,
    x_label: str,
    y_label: str,
    whole_x: bool = False,
    from_zero: bool = False,
) -> Plate:
    """Draw lines with 95 % intervals and return the figure. `panels` maps the title of each panel (subplot) to its
    lines. `whole_x`: the x axis has ticks only at whole numbers. `from_zero`: the y axis begins at 0."""
    with canvas(name, len(panels)) as (figure, axes):
        for place, (panel, lines) in zip(axes, panels.items()):
            for number, line in enumerate(lines):
                _draw_line(place, line, number, (number - (len(lines) - 1) / 2) * _step(lines))
            if not place.containers:
                place.text(0.5, 0.5, "no number to show", transform=place.transAxes, ha="center", color="#777777")
            place.set_title(panel, fontsize=9)
            place.set_xlabel(x_label)
            if whole_x:
                place.xaxis.set_major_locator(MaxNLocator(integer=True))
        if from_zero:  # all panels share the y axis, so its limit is set after the last panel is drawn
            axes[0].set_ylim(bottom=0)
        _label_left(axes, f"{y_label}, 95 % interval")
        _legend(figure, axes)
        return finish(figure, name, title, caption, stamp)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Draw one legend beside the panels (subplots). A label that occurs in several panels is listed once."""
    found = {}
    for place in axes:
        for handle, label in zip(*place.get_legend_handles_labels()):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside right upper")


def _step(lines: Sequence[PlateLine]) -> float:
    """Return how far neighbouring lines are shifted along the x axis, in units of this axis, so that their intervals do
    not hide each other."""
    xs = sorted({float(x) for line in lines for x in line.x})
    return 0.0 if len(xs) < 2 or len(lines) < 2 else min(0.05 * min(np.diff(xs)), 0.012 * (xs[-1] - xs[0]))


def _draw_line(axes: Axes, line: PlateLine, number: int, offset: float) -> None:
    known = [(x, m) for x, m in zip(line.x, line.y) if np.isfinite(m.value)]
    if not known:
        return
    x, measures = zip(*known)
    kind = number if line.colour is None else line.colour
    axes.errorbar(
        np.array(x) + offset, [m.value for m in measures], yerr=_errors(measures), label=line.label,
        color=COLOURS[kind % len(COLOURS)], marker=MARKERS[kind % len(MARKERS)], markersize=4, linewidth=1.5,
        elinewidth=0.9, linestyle="--" if line.dashed else "-",
    )  # fmt: skip


def dots_plate(
    name: str,
    title: str,
    caption: str,
    stamp: str,
    panels: Mapping[str, Mapping[str, Measure]],
    *,
    rows: Sequence[str],
    x_label: str,
    zero: bool = False,
    chance: bool = False,
) -> Plate:
    """Draw one dot per name in `rows`, with its interval and its number of cases n, and return the figure. The names
    are listed from top to bottom. `panels` maps the title of each panel (subplot) to a dict: name -> measured value.
    `zero` adds a vertical line at 0. `chance` is for shares: all panels show 0 to 1, with a line at .5."""
    with canvas(name, len(panels), width=4.0, height=1.5 + 0.27 * len(rows)) as (figure, axes):
        for place, (panel, found) in zip(axes, panels.items()):
            for number, row in enumerate(rows):
                measure = found.get(row)
                if measure is not None and np.isfinite(measure.value):
                    place.errorbar(
                        [measure.value], [number], xerr=_errors([measure]), fmt="o", markersize=5,
                        color=COLOURS[2] if number else COLOURS[0],
                    )  # fmt: skip
                    place.text(1.01, number, f"n={measure.n}", transform=place.get_yaxis_transform(), va="center",
                               fontsize=6.5, color="#777777")  # fmt: skip
            if zero:
                place.axvline(0, color="#999999", linewidth=0.9)
            if chance:
                place.axvline(0.5, color="#999999", linewidth=0.9)
                place.set_xlim(-0.03, 1.03)
            place.xaxis.set_major_locator(MaxNLocator(nbins=5))  # leaves enough room for tick labels with two digits
            place.set_title(panel, fontsize=9)
            place.set_xlabel(f"{x_label}, 95 % interval")
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        return finish(figure, name, title, caption, stamp)


def heat_plate(
    name: str,
    title: str,
    caption: str,
    stamp: str,
    panels: Mapping[str, Mapping[tuple, Measure]],
    *,
    x: Sequence,
    y: Sequence,
    x_label: str,
    y_label: str,
) -> Plate:
    """Draw a heat map and return the figure. There is one square per pair (x, y). It shows the measured value, its
    interval and its number of cases n. `panels` maps the title of each panel (subplot) to a dict: pair -> measured
    value. Every panel has its own colour scale."""
    with canvas(name, len(panels), width=1.05 * len(x) + 1.6, height=0.72 * len(y) + 1.7) as (figure, axes):
        for place, (panel, found) in zip(axes, panels.items()):
            table = np.full((len(y), len(x)), np.nan)
            for (row, column), measure in found.items():
                table[y.index(column), x.index(row)] = measure.value
            image = place.imshow(table, cmap="cividis", aspect="auto", origin="lower")
            for (row, column), measure in found.items():
                if not np.isfinite(measure.value):
                    continue
                ends = "" if not np.isfinite(measure.low) else f"\n[{measure.low:.3g}, {measure.high:.3g}]"
                dark = np.dot(image.to_rgba(np.array([measure.value]))[0, :3], LUMINANCE) < 0.4
                place.text(x.index(row), y.index(column), f"{measure.value:.3g}{ends}\nn={measure.n}", ha="center",
                           va="center", fontsize=7, color="white" if dark else "black")  # fmt: skip
            place.grid(False)
            place.set_xticks(range(len(x)), [f"{value:g}" if isinstance(value, float) else value for value in x])
            place.set_yticks(range(len(y)), [f"{value:g}" if isinstance(value, float) else value for value in y])
            place.set_title(panel, fontsize=9)
            place.set_xlabel(x_label)
        _label_left(axes, y_label)
        return finish(figure, name, title, caption, stamp)


def stacks_plate(
    name: str,
    title: str,
    caption: str,
    stamp: str,
    panels: Mapping[str, Mapping[str, Mapping[str, Measure]]],
    *,
    parts: Sequence[str],
    y_label: str,
) -> Plate:
    """Draw groups of bars with intervals and return the figure. `panels` is a nested dict: title of a panel (subplot)
    -> name of a group of bars -> name of a bar -> measured value. Each group has one bar for each name in `parts`, side
    by side."""
    with canvas(name, len(panels)) as (figure, axes):
        for place, (panel, groups) in zip(axes, panels.items()):
            width = 0.8 / len(parts)
            for number, part in enumerate(parts):
                at = np.arange(len(groups)) + (number - (len(parts) - 1) / 2) * width
                found = [group[part] for group in groups.values()]
                place.bar(
                    at, [m.value for m in found], width, yerr=_errors(found), label=part,
                    color=COLOURS[number % len(COLOURS)], error_kw={"elinewidth": 0.9},
                )  # fmt: skip
            place.set_xticks(range(len(groups)), list(groups))
            place.axhline(0, color="#888888", linewidth=0.8)
            place.set_title(panel, fontsize=9)
        _label_left(axes, f"{y_label}, 95 % interval")
        _legend(figure, axes)
        return finish(figure, name, title, caption, stamp)


def _errors(measures: Sequence[Measure]) -> np.ndarray:
    """Return the lengths of the error bars as an array [2, n]: first the lengths below the values, then those above.
    Both lengths are 0 for a measure that has no interval."""
    ends = [[m.value - m.low, m.high - m.value] for m in measures]
    return np.nan_to_num(np.array(ends, dtype=float)).clip(0).T
