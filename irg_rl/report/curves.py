"""Figures of a report: one message each, axes with units, n stated, as SVG.

Which scalars of `metrics.jsonl` are drawn, by the name they are logged under:

| stage         | scalars |
|---|---|
| SFT stages    | `ce`, `mse`, `val/ce`, `val/mse`, `grad_norm` |
| RL (`rl...`)  | `reward/turn{k}`, `score/{scorer}/last`, `accuracy/turn{k}`, `stop_rate`, `grad_norm`, |
|               | `clip_fraction/{text,image}`, `abs_log_ratio/{text,image}` |
"""

import base64
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TURN_COLOURS = ("#9aa5b1", "#5b8db8", "#2a6f97", "#0b3c5d", "#c8553d", "#7d5ba6")
ARM_COLOURS = {"real": "#0b6e4f", "redraw": "#8d99ae", "shuffled": "#d08c2e"}
OTHER_COLOUR = "#555555"
SMOOTHED_FROM = 60  # points; shorter curves are shown as they are
STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: layout does not depend on the machine
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,  # a scorer's name may hold a dollar sign
    "svg.hashsalt": "irg-rl",
}


@dataclass(frozen=True)
class Curve:
    """What one figure draws. `pattern` matches scalar names; its group is the name of the line, if it has one."""

    title: str
    stages: str
    pattern: str
    y_label: str
    x_label: str = "optimizer step"
    log_scale: bool = False
    share: bool = False


@dataclass(frozen=True)
class Picture:
    """A finished figure: SVG as a data address, and a caption that says in numbers what it shows."""

    title: str
    caption: str
    address: str
    alt: str


SFT = r"(?!rl|vae|clip|hps).*"
RL = r"rl.*"
UPDATES = "RL update"
CURVES = (
    Curve("Text loss in SFT", SFT, r"(?:train/|loss/)?(ce|val/ce)", "cross-entropy (nats per token)"),
    Curve("Image loss in SFT", SFT, r"(?:train/|loss/)?(mse|val/mse)", "flow MSE (per latent element)"),
    Curve("Gradient norm in SFT", SFT, r"grad_norm()", "norm before clipping", log_scale=True),
    Curve("Validation accuracy by turn during RL", RL, r"accuracy/(turn\d+)", "share right", UPDATES, share=True),
    Curve("Training reward by turn", RL, r"reward/(turn\d+)", "combined reward", UPDATES),
    Curve("Scorers, image of the last turn", RL, r"score/(.+)/last", "mean score", UPDATES),
    Curve("How often the model stops", RL, r"(stop_rate.*)", "share of trajectories", UPDATES, share=True),
    Curve("Gradient norm in RL", RL, r"grad_norm()", "norm before clipping", UPDATES, log_scale=True),
    Curve("Share of clipped ratios", RL, r"clip_fraction/(text|image)", "share of terms", UPDATES, share=True),
    Curve("Policy change per update", RL, r"abs_log_ratio/(text|image)", "mean |log ratio|", UPDATES, log_scale=True),
)  # fmt: skip


def draw_curves(metrics: Sequence[dict]) -> list[Picture]:
    """All figures for which there are numbers."""
    pictures = [_draw_curve(curve, metrics) for curve in CURVES]
    return [picture for picture in pictures if picture is not None]


def not_drawn(metrics: Sequence[dict]) -> list[str]:
    """Names of scalars that no figure shows, `stage/name`."""
    names = {(row["stage"], name) for row in metrics for name in row if name not in ("stage", "step", "time")}
    drawn = {
        (stage, name)
        for stage, name in names
        if any(re.fullmatch(c.stages, stage) and re.fullmatch(c.pattern, name) for c in CURVES)
    }
    return sorted(f"{stage}/{name}" for stage, name in names - drawn)


def _draw_curve(curve: Curve, metrics: Sequence[dict]) -> Picture | None:
    stages, lines = _lines(curve, metrics)
    if not lines:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.1), layout="constrained")
        axes = figure.subplots()
        notes = []
        for number, (name, (x, y)) in enumerate(sorted(lines.items())):
            label = _label(name)
            colour = TURN_COLOURS[(number + (len(lines) < 3) * 2) % len(TURN_COLOURS)]
            _draw_line(axes, x, y, label if len(lines) > 1 else "", colour, sparse=name.startswith("val/"))
            notes.append(_change(label if len(lines) > 1 else "", y))
        _decorate(axes, curve, stages)
        if len(lines) > 1:
            axes.legend(loc="best", ncols=2 if len(lines) > 3 else 1)
        return _finish(figure, curve.title, "; ".join(notes))


def _lines(curve: Curve, metrics: Sequence[dict]) -> tuple[dict[str, float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Stages laid end to end: where each begins, and x and y of each line."""
    last: dict[str, int] = {}
    for row in metrics:
        if re.fullmatch(curve.stages, row["stage"]) and any(re.fullmatch(curve.pattern, name) for name in row):
            last[row["stage"]] = max(last.get(row["stage"], 0), row["step"])
    begins, end = {}, 0
    for stage, steps in last.items():
        begins[stage], end = end, end + steps
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in metrics:
        if row["stage"] not in begins:
            continue
        for name, value in row.items():
            found = re.fullmatch(curve.pattern, name)
            if found and isinstance(value, int | float):
                points[found[1]].append((begins[row["stage"]] + row["step"], float(value)))
    return begins, {name: tuple(np.array(sorted(p)).T) for name, p in points.items()}


def _draw_line(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, colour: str, sparse: bool) -> None:
    if sparse or len(x) < SMOOTHED_FROM:
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, y, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3.5)
        return
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(x, smooth(y), color=colour, label=label, linewidth=1.8)


def smooth(y: np.ndarray) -> np.ndarray:
    """Centred mean over a twentieth of the curve, shorter at both ends."""
    half = max(1, len(y) // 40)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(len(y))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


def _decorate(axes: Axes, curve: Curve, stages: dict[str, float]) -> None:
    axes.set_xlabel(curve.x_label)
    axes.set_ylabel(curve.y_label)
    if curve.log_scale and all((line.get_ydata() > 0).all() for line in axes.lines):
        axes.set_yscale("log")
    if curve.share:
        axes.set_ylim(0, max(0.05, min(1.0, 1.15 * max(line.get_ydata().max() for line in axes.lines))))
    if len(stages) > 1:
        for name, begin in stages.items():
            axes.axvline(begin, color="#bbbbbb", linewidth=0.8, linestyle=(0, (3, 3)))
            axes.annotate(name, (begin, 1.0), xycoords=("data", "axes fraction"), xytext=(3, -2),
                          textcoords="offset points", va="top", fontsize=8, color="#777777")  # fmt: skip


def _label(name: str) -> str:
    """`turn0` is the first image; readers count from 1."""
    turn = re.fullmatch(r"turn(\d+)", name)
    if turn:
        return f"turn {int(turn[1]) + 1}"
    return {"val/ce": "validation", "val/mse": "validation", "ce": "training", "mse": "training"}.get(name, name)


def _change(label: str, y: np.ndarray) -> str:
    """First and last tenth of the curve, at least one point each."""
    tenth = max(1, len(y) // 10)
    return f"{label}{': ' if label else ''}{y[:tenth].mean():.3g} → {y[-tenth:].mean():.3g}"


def draw_turns(evaluations: Sequence[dict]) -> Picture | None:
    """Accuracy by turn, real against controls, one panel per evaluation."""
    shown = [e for e in evaluations if e["arms"]]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(4.6, 3.6 * len(shown)), 3.2), layout="constrained")
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, evaluation in zip(panels, shown, strict=True):
            for offset, (arm, summary) in enumerate(evaluation["arms"].items()):
                _draw_arm(axes, arm, summary["accuracy"], 0.06 * (offset - 1))
            n = max(summary["n"] for summary in evaluation["arms"].values())
            axes.set_title(f"{evaluation['name']} (n={n})", fontsize=10)
            axes.set_xlabel("turn")
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel("share right (95 % interval)")
        panels[0].set_ylim(0, 1)
        panels[-1].legend(loc="lower right")
        return _finish(
            figure,
            "Accuracy by turn beside both controls",
            "Turn 1 is the first image, the same in every arm. What a turn bought is the distance to the controls.",
        )


def draw_repair(evaluations: Sequence[dict]) -> Picture | None:
    """Repair and damage at the last turn, real against controls."""
    shown = [e for e in evaluations if e["arms"] and all(a["turns"] > 1 for a in e["arms"].values())]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        rows = [(e["name"], arm, summary) for e in shown for arm, summary in e["arms"].items()]
        figure = Figure(figsize=(7.6, 0.9 + 0.34 * len(rows)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, measure in zip(panels, ("repair", "damage"), strict=True):
            for place, (_, arm, summary) in enumerate(rows):
                m = summary[measure][-1]
                if m["value"] is not None:
                    errors = [[m["value"] - m["low"]], [m["high"] - m["value"]]]
                    axes.errorbar([m["value"]], [place], xerr=errors, fmt="o", color=_colour(arm), markersize=5)
            axes.set_title(
                {"repair": "repair (higher is better)", "damage": "damage (lower is better)"}[measure], fontsize=10
            )
            axes.set_xlim(0, 1)
            axes.set_xlabel("share (95 % interval)")
        panels[0].set_yticks(range(len(rows)), [f"{name}: {arm}" for name, arm, _ in rows])
        panels[0].invert_yaxis()
        return _finish(
            figure,
            "Repair and damage at the last turn",
            "Repair: right at the end, given a wrong first image. Damage: wrong at the end, given a right one.",
        )


def _draw_arm(axes: Axes, arm: str, accuracy: Sequence[dict], offset: float) -> None:
    points = [(turn, m) for turn, m in enumerate(accuracy, start=1) if m["value"] is not None]
    x = [turn + offset for turn, _ in points]
    y = [m["value"] for _, m in points]
    errors = [[m["value"] - m["low"] for _, m in points], [m["high"] - m["value"] for _, m in points]]
    axes.errorbar(x, y, yerr=errors, color=_colour(arm), label=arm, marker="o", markersize=4, linewidth=1.6)


def _colour(arm: str) -> str:
    return ARM_COLOURS.get(arm, OTHER_COLOUR)


def _finish(figure: Figure, title: str, caption: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(title, caption, f"data:image/svg+xml;base64,{encoded}", f"{title}. {caption}")
