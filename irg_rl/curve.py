"""Describes a figure of the report. The code that logs the numbers also describes their figure with a `Curve`."""

from dataclasses import dataclass

RL = r"rl.*"
"""Regular expression that matches the names of all training stages that use reinforcement learning (RL)."""
UPDATES = "RL update"


@dataclass(frozen=True)
class Curve:
    """One figure of the report. `pattern` is a regular expression that matches the names of the logged numbers to draw.
    The expression may have a group named `line` and a group named `panel`. The text that `line` matches names the line
    of a number, and the text that `panel` matches names its panel (a part of the figure)."""

    title: str
    stages: str
    pattern: str
    y_label: str
    x_label: str = "optimizer step"
    log_scale: bool = False
    share: bool = False
    cases: str = ""  # name of the logged number that says how many cases a point is computed from
