"""Chooses the curves of one or several runs from their metrics. A curve is one logged number over the steps of one
stage.

Stages of one run that log the same number follow each other in one chart. With several runs, every run has its own
lines, and each run begins at step 0 of the stage.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from irg_rl.evaluate.health import Points

MOST_POINTS = 600
"""Largest number of points that are sent to the page per line. More points are joined to means."""


@dataclass(frozen=True)
class CurveLine:
    """One line of a chart. `colour` is the number of its colour, `dash` the number of its dash pattern."""

    label: str
    points: Points
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True)
class Chart:
    title: str
    x_label: str
    lines: list[CurveLine] = field(default_factory=list)
    log_scale: bool = False


@dataclass(frozen=True)
class CurveChoice:
    """A chart that is shown by default. The regular expression `pattern` is matched with `stage/name` of every logged
    number. Its group `line`, if there is one, becomes the name of the line."""

    title: str
    pattern: str
    log_scale: bool = False


RL, SFT = r"rl[^/]*/", r"(?:pretrain|sft)[^/]*/"
CHOICES = (
    CurveChoice("Reward", RL + r"reward/(?P<line>first|last)"),
    CurveChoice("Reward of all sampled groups", RL + r"drawn/(?P<line>first|last)"),
    CurveChoice("Validation accuracy", RL + r"accuracy/(?P<line>turn\d+)"),
    CurveChoice("Groups with a spread in reward", RL + r"drawn/spread"),
    CurveChoice("Share of trajectories stopped", RL + r"stopped"),
    CurveChoice("Text tokens per trajectory", RL + r"text_tokens"),
    CurveChoice("Entropy of texts", RL + r"text/(?P<line>turn\d+)/entropy"),
    CurveChoice("Approximate KL", RL + r"(?P<line>(?:text|image)/turn\d+)/approx_kl", True),
    CurveChoice("Share of clipped ratios", RL + r"(?P<line>(?:text|image)/turn\d+)/clipfrac"),
    CurveChoice("Gradient norm in RL", RL + r"grad_norm/(?P<line>.+)", True),
    CurveChoice("Largest step of a weight", RL + r"step/largest", True),
    CurveChoice("Seconds of an update", RL + r"seconds/(?P<line>.+)"),
    CurveChoice("Text loss in SFT", SFT + r"(?P<line>(?:validation/)?ce)"),
    CurveChoice("Image loss in SFT", SFT + r"(?P<line>(?:validation/)?mse)"),
    CurveChoice("Tokens predicted right in SFT", SFT + r"(?P<line>(?:validation/)?right_tokens)"),
    CurveChoice("Gradient norm in SFT", SFT + r"grad_norm/(?P<line>.+)", True),
)


def default_charts(runs: Mapping[str, Mapping[str, Points]]) -> list[Chart]:
    """Return the charts that are shown by default. `runs` maps the name of each run to its series. A chart without
    values is left out."""
    charts = [chart_of(choice.title, choice.pattern, runs, choice.log_scale) for choice in CHOICES]
    return [chart for chart in charts if chart.lines]


def chosen_chart(name: str, runs: Mapping[str, Mapping[str, Points]]) -> Chart:
    """Return the chart of one logged number, `stage/name`, of all runs."""
    return chart_of(name, re.escape(name), runs)


def chart_of(title: str, pattern: str, runs: Mapping[str, Mapping[str, Points]], log_scale: bool = False) -> Chart:
    """Return a chart with all numbers that match the pattern. With one run, lines have different colours. With several
    runs, a colour is a run, and a dash pattern is a line of this run."""
    matched = {
        run: [(name.partition("/")[0], match.groupdict().get("line") or "", points)
              for name, points in found.items() if (match := re.fullmatch(pattern, name))]
        for run, found in runs.items()
    }  # fmt: skip
    names = sorted({line for own in matched.values() for _, line, _ in own})
    dashes = {line: place for place, line in enumerate(names)}
    lines = []
    for colour, (run, own) in enumerate(matched.items()):
        begins = _begins(own)
        pieces: dict[str, Points] = {}
        for stage, line, points in own:
            pieces.setdefault(line, []).extend((begins[stage] + step, value) for step, value in points)
        for line, points in sorted(pieces.items()):
            several = len(runs) > 1
            label = " ".join(part for part in (run if several else "", line_label(line)) if part) or title
            shown = (colour, dashes[line]) if several else (dashes[line], 0)
            lines.append(CurveLine(label, thinned(points), *shown))
    stages = dict.fromkeys(stage for own in matched.values() for stage, _, _ in own)
    return Chart(title, f"step of {', then '.join(stages)}", lines, log_scale)


def _begins(own: Sequence[tuple[str, str, Points]]) -> dict[str, float]:
    """Return stage -> position on the x axis at which it begins: stages follow each other."""
    lasts: dict[str, float] = {}
    for stage, _, points in own:
        lasts[stage] = max(lasts.get(stage, 0.0), points[-1][0])
    begins, end = {}, 0.0
    for stage, last in lasts.items():
        begins[stage], end = end, end + last
    return begins


def line_label(name: str) -> str:
    """Return the name of a line in words. Readers count turns from 1, so `turn0` becomes `turn 1`."""
    return re.sub(r"\bturn(\d+)", lambda found: f"turn {int(found[1]) + 1}", name)


def thinned(points: Points) -> Points:
    """Return at most MOST_POINTS points: each is the mean of some neighbours."""
    size = -(-len(points) // MOST_POINTS)
    if size <= 1:
        return list(points)
    parts = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def all_names(runs: Mapping[str, Mapping[str, Points]]) -> list[str]:
    """Return the names of all logged numbers, as `stage/name`."""
    return sorted({name for found in runs.values() for name in found})
