"""Figures of a report, as SVG. Each has one message, axes with units, and the number of cases n.

The following scalars of `metrics.jsonl` are drawn. They are listed by the name under which they are logged. Braces with
commas list alternatives: `reward/{first,last}` means `reward/first` and `reward/last`. `{k}`, `{part}` and `{scorer}`
stand for the number of a turn, a part of the model and the name of a scorer.

| stage       | scalars |
|---|---|
| SFT stages  | `ce`, `mse`, `right_tokens`, the same under `validation/`, `grad_norm/{part}` |
| RL (`rl..`) | `held_out/{scorer}`, `drawn/{statistic}` of images and texts, `accuracy/turn{k}` and        |
|             | `accuracy/n` (validation), `reward/{first,last}`, `reward/{scorer}/{turn{k},seconds_per_image}`, |
|             | `stopped`, `images`, `grad_norm/{part}`, `seconds/{part}`, |
|             | `{text,image}/turn{k}/{clipfrac,log_ratio_max}`, `age/{mean,max}`, and what the algorithm          |
|             | declares (`curves`) |
"""

import base64
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from irg_rl.curve import RL, UPDATES, Curve
from irg_rl.report.words import arm_words, part_words

TURN_COLOURS = ("#9aa5b1", "#5b8db8", "#2a6f97", "#0b3c5d", "#c8553d", "#7d5ba6")
ARM_COLOURS = {"real": "#0b6e4f", "redraw": "#8d99ae", "shuffled": "#d08c2e"}
OTHER_COLOUR = "#555555"
ACROSS = 2  # panels in a row
SMOOTHED_FROM = 24  # number of points; shorter curves are not smoothed
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the layout does not depend on the machine
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # the name of a scorer may contain a dollar sign
    "svg.hashsalt": "irg-rl",
}


@dataclass(frozen=True)
class ReportFigure:
    """A finished figure: an SVG image as a data URL (`address`), and a caption that says in numbers what it shows."""

    title: str
    caption: str
    address: str
    alt: str


SFT = r"sft.*"
CURVES = (
    Curve("Text loss in SFT", SFT, r"(?P<line>(validation/)?ce)", "cross-entropy (nats per token)"),
    Curve("Image loss in SFT", SFT, r"(?P<line>(validation/)?mse)", "flow MSE (per latent element)"),
    Curve("Tokens predicted right in SFT", SFT, r"(?P<line>(validation/)?right_tokens)", "share of tokens", share=True),
    Curve("Gradient norm in SFT", SFT, r"grad_norm/(?P<line>.+)", "norm before clipping", log_scale=True),
    Curve("Validation accuracy during RL", RL, r"accuracy/(?P<line>turn\d+)", "share right", UPDATES, share=True,
          cases="accuracy/n"),
    Curve("Reward of first and last image", RL, r"reward/(?P<line>first|last)", "mean reward", UPDATES),
    Curve("Held-out scorers on drawn groups", RL, r"held_out/(?P<panel>.+)", "mean score", UPDATES),
    Curve("Drawn images", RL, r"drawn/(?P<panel>dark_share|edge_density|colour_entropy|sharpness|image_diversity)",
          "mean of drawn groups", UPDATES),
    Curve("Drawn texts", RL, r"drawn/(?P<panel>text_length|repetition|prompt_copies|text_diversity)",
          "mean of drawn groups", UPDATES),
    Curve("Scorers by turn", RL, r"reward/(?P<panel>.+)/(?P<line>turn\d+)", "mean score", UPDATES),
    Curve("Time of a scorer", RL, r"reward/(?P<line>.+)/seconds_per_image", "seconds per image", UPDATES),
    Curve("How often the model stops", RL, r"stopped", "share of trajectories", UPDATES, share=True),
    Curve("Images drawn per trajectory", RL, r"images", "images", UPDATES),
    Curve("Gradient norm in RL", RL, r"grad_norm/(?P<line>.+)", "norm before clipping", UPDATES, log_scale=True),
    Curve("Ratios outside the clip range", RL, r"(?P<panel>text|image)/(?P<line>turn\d+)/clipfrac", "share", UPDATES,
          share=True),
    Curve("Largest |log ratio| of an update", RL, r"(?P<panel>text|image)/(?P<line>turn\d+)/log_ratio_max",
          "|log ratio|", UPDATES, log_scale=True),
    Curve("Age of trained groups", RL, r"age/(?P<line>mean|max)", "updates since sampling", UPDATES),
    Curve("Time of an update", RL, r"seconds/(?P<line>.+)", "seconds", UPDATES),
)  # fmt: skip


def draw_curves(metrics: Sequence[dict], own: Sequence[Curve] = ()) -> list[ReportFigure]:
    """Return a figure for every curve that has values in `metrics`, the lines of metrics.jsonl. Some curves exist for
    every run. `own` adds the curves that the RL algorithm declares."""
    pictures = [_draw_curve(curve, metrics) for curve in (*CURVES, *own)]
    return [picture for picture in pictures if picture is not None]


def not_drawn(metrics: Sequence[dict], own: Sequence[Curve] = ()) -> list[str]:
    """Return the sorted names, in the form `stage/name`, of the scalars in metrics.jsonl that are in no figure."""
    curves = (*CURVES, *own)
    names = {(row["stage"], name) for row in metrics for name in row if name not in ("stage", "step", "time")}
    drawn = {
        (stage, name)
        for stage, name in names
        if any(re.fullmatch(c.stages, stage) and (re.fullmatch(c.pattern, name) or name == c.cases) for c in curves)
    }
    return sorted(f"{stage}/{name}" for stage, name in names - drawn)


def _draw_curve(curve: Curve, metrics: Sequence[dict]) -> ReportFigure | None:
    begins, panels = _panels(curve, metrics)
    if not panels:
        return None
    with mpl.rc_context(STYLE):
        rows = -(-len(panels) // ACROSS)
        figure = Figure(figsize=(5.4, 0.6 + 2.3 * rows), layout="constrained")
        grid = figure.subplots(rows, min(len(panels), ACROSS), squeeze=False).ravel()
        for spare in grid[len(panels):]:
            spare.remove()
        names = sorted({name for lines in panels.values() for name in lines})
        for axes, (panel, lines) in zip(grid, sorted(panels.items())):
            for name in sorted(lines):
                label = _label(name) if len(names) > 1 else ""
                colour = TURN_COLOURS[(names.index(name) + (len(names) < 3) * 2) % len(TURN_COLOURS)]
                for place, (begin, (x, y)) in enumerate(lines[name]):
                    sparse = name.startswith("validation/")
                    _draw_line(axes, begin + x, y, "" if place else label, colour, sparse)
            axes.set_title(part_words(panel), fontsize=9)
            _decorate(axes, curve, begins)
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=8 if len(panels) == 1 else 3)
        for first in grid[: len(panels) : ACROSS]:
            first.set_ylabel(curve.y_label)
        if len(names) > 1:
            _legend(figure, list(grid[: len(panels)]))
        return finish(figure, curve.title, _changes(panels) + _counted(curve, metrics))


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Add a legend above the panels, where it hides nothing. Every label appears once."""
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(found.values(), found.keys(), loc="outside upper right", ncols=min(len(found), 5), fontsize=8)


Piece = tuple[float, tuple[np.ndarray, np.ndarray]]  # begin of a stage on the x axis, then its steps and values
Lines = dict[str, list[Piece]]


def _panels(curve: Curve, metrics: Sequence[dict]) -> tuple[dict[str, float], dict[str, Lines]]:
    """Return two dicts. The first has the position on the x axis at which each stage of the run starts. The second has
    the lines of each panel (subplot). Stages are placed one after the other on the x axis, so a line consists of one
    piece per stage."""
    points: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in metrics:
        if re.fullmatch(curve.stages, row["stage"]):
            for name, value in row.items():
                found = re.fullmatch(curve.pattern, name)
                if found and isinstance(value, int | float):
                    names = found.groupdict()
                    key = names.get("panel", ""), names.get("line", ""), row["stage"]
                    points[key].append((row["step"], float(value)))
    begins: dict[str, float] = {}
    end = 0.0
    for stage in dict.fromkeys(row["stage"] for row in metrics):
        steps = [step for (*_, where), found in points.items() if where == stage for step, _ in found]
        if steps:
            begins[stage], end = end, end + max(steps)
    panels: dict[str, Lines] = defaultdict(lambda: defaultdict(list))
    for (panel, line, stage), found in points.items():
        x, y = np.array(sorted(found)).T
        panels[panel][line].append((begins[stage], (x, y)))
    return begins, panels


def _draw_line(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, colour: str, sparse: bool) -> None:
    if sparse or len(x) < SMOOTHED_FROM:
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, y, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3.5)
        return
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(x, smooth(y), color=colour, label=label, linewidth=1.8)


def smooth(y: np.ndarray) -> np.ndarray:
    """Replace each point of the curve by the mean of the points around it, and return the result. Each mean uses a
    twentieth of all points, but at least five points. Only near the two ends of the curve, it uses fewer points,
    because no points lie beyond the ends."""
    half = max(2, len(y) // 40)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(len(y))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


def _decorate(axes: Axes, curve: Curve, stages: dict[str, float]) -> None:
    axes.set_xlabel(curve.x_label)
    if curve.log_scale and all((np.asarray(line.get_ydata()) > 0).all() for line in axes.lines):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
    if curve.share:
        axes.set_ylim(0, max(0.05, min(1.0, 1.15 * max(np.max(line.get_ydata()) for line in axes.lines))))
    if len(stages) > 1:
        for name, begin in stages.items():
            axes.axvline(begin, color="#bbbbbb", linewidth=0.8, linestyle=(0, (3, 3)))
            axes.annotate(name, (begin, 1.0), xycoords=("data", "axes fraction"), xytext=(3, -2),
                          textcoords="offset points", va="top", fontsize=8, color="#777777")  # fmt: skip


def _label(name: str) -> str:
    """Return the label of a line. Readers count turns from 1, so `turn0`, the first image, becomes "turn 1"."""
    if name.startswith("validation/"):
        return "validation"
    return "training" if name in ("ce", "mse", "right_tokens") else part_words(name)


def _changes(panels: dict[str, Lines]) -> str:
    """Return a text that says how every line of the figure changed: its mean over the first tenth of its points, and
    its mean over the last tenth. A tenth has at least one point."""
    told = []
    for panel, lines in sorted(panels.items()):
        for name in sorted(lines):
            y = np.concatenate([values for _, (_, values) in lines[name]])
            tenth = max(1, len(y) // 10)
            label = " ".join(part for part in (part_words(panel), _label(name) if len(lines) > 1 else "") if part)
            told.append(f"{label}{': ' if label else ''}{y[:tenth].mean():.3g} → {y[-tenth:].mean():.3g}")
    return "; ".join(told)


def _counted(curve: Curve, metrics: Sequence[dict]) -> str:
    """Return a text such as " (n=300 per point)", with the number of cases from which each point was computed. Return
    "" if this number was not logged."""
    counts = {int(row[curve.cases]) for row in metrics if isinstance(row.get(curve.cases), int | float)}
    return f" (n={', '.join(map(str, sorted(counts)))} per point)" if counts else ""


def draw_turns(evaluations: Sequence[dict]) -> ReportFigure | None:
    """Draw the share of right images at each turn, for the model's own refinement (called `real`) and for the controls.
    A control has the same first images, but replaces the later images. Their replacement is a plain new draw, or a
    refinement that follows the reflection of another prompt. There is one panel (subplot) per evaluation. Return None
    if there is nothing to draw."""
    shown = [e for e in evaluations if e["arms"]]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, 4.4 * len(shown)), 3.2), layout="constrained")
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, evaluation in zip(panels, shown, strict=True):
            for offset, (arm, summary) in enumerate(evaluation["arms"].items()):
                _draw_arm(axes, arm, summary["accuracy"], 0.06 * (offset - 1))
            n = max(summary["n"] for summary in evaluation["arms"].values())
            axes.set_title(f"{evaluation['name']} (n={n})", fontsize=9.5)
            axes.set_xlabel("turn")
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel("share right (95 % interval)")
        panels[0].set_ylim(0, 1)
        _, fullest = max(enumerate(panels), key=lambda place: (len(shown[place[0]]["arms"]), place[0]))
        _legend(figure, [fullest])  # some evaluations may have no controls
        return finish(
            figure,
            "Accuracy by turn beside both controls",
            "Turn 1 is the first image, the same in every arm. What a turn bought is the distance to the controls.",
        )


def draw_repair(evaluations: Sequence[dict]) -> ReportFigure | None:
    """Draw repair and damage at the last turn, for the model's own refinement (called `real`) and for the controls.
    Repair is the share of wrong first images that are right at the last turn. Damage is the share of right first images
    that are wrong at the last turn. A control has the same first images, but replaces the later images. Their
    replacement is a plain new draw, or a refinement that follows the reflection of another prompt. Return None if there
    is nothing to draw."""
    shown = [e for e in evaluations if e["arms"] and all(a["turns"] > 1 for a in e["arms"].values())]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        rows = [(e["name"], arm, summary) for e in shown for arm, summary in e["arms"].items()]
        figure = Figure(figsize=(8.8, 0.9 + 0.28 * len(rows)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, measure in zip(panels, ("repair", "damage"), strict=True):
            for place, (_, arm, summary) in enumerate(rows):
                m = summary[measure][-1]
                if m["value"] is not None:
                    axes.errorbar([m["value"]], [place], xerr=_errors([m]), fmt="o", color=_colour(arm), markersize=5)
            axes.set_title(
                {"repair": "repair (higher is better)", "damage": "damage (lower is better)"}[measure], fontsize=10
            )
            axes.set_xlim(-0.02, 1.02)
            axes.set_xlabel("share (95 % interval)")
        panels[0].set_yticks(range(len(rows)), [f"{name}: {arm_words(arm)}" for name, arm, _ in rows])
        panels[0].invert_yaxis()
        counts = [f"{e['name']} {_cases(e, 'repair')} and {_cases(e, 'damage')}" for e in shown]
        return finish(
            figure,
            "Repair and damage at the last turn",
            "Repair: right at the end, given a wrong first image. Damage: wrong at the end, given a right one. "
            f"Wrong and right first images: {'; '.join(counts)}.",
        )


def _cases(evaluation: dict, measure: str) -> int:
    return max(summary[measure][-1]["n"] for summary in evaluation["arms"].values())


def _draw_arm(axes: Axes, arm: str, accuracy: Sequence[dict], offset: float) -> None:
    points = [(turn, m) for turn, m in enumerate(accuracy, start=1) if m["value"] is not None]
    x = [turn + offset for turn, _ in points]
    y = [m["value"] for _, m in points]
    axes.errorbar(
        x,
        y,
        yerr=_errors([m for _, m in points]),
        color=_colour(arm),
        label=arm_words(arm),
        marker="o",
        markersize=4,
        linewidth=1.6,
    )


def _errors(measures: Sequence[dict]) -> list[list[float]]:
    """Return two lists with the lengths of the error bars: below the values and above the values. If a value has no
    interval, its bars have length 0. If a value is below its interval, the lower bar has length 0; if it is above, the
    upper bar has length 0."""
    low = [max(0.0, m["value"] - m["low"]) if m["low"] is not None else 0.0 for m in measures]
    high = [max(0.0, m["high"] - m["value"]) if m["high"] is not None else 0.0 for m in measures]
    return [low, high]


def _colour(arm: str) -> str:
    return ARM_COLOURS.get(arm, OTHER_COLOUR)


def finish(figure: Figure, title: str, caption: str) -> ReportFigure:
    """Return the finished figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return ReportFigure(title, caption, f"data:image/svg+xml;base64,{encoded}", f"{title}. {caption}")
