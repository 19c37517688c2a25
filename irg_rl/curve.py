"""Describes a figure of the report. The code that logs the numbers also describes their figure with a `Curve`."""

from dataclasses import dataclass

RL = r"rl.*"
"""Regular expression that matches the names of all training stages that use reinforcement learning (RL)."""
UPDATES = "RL update"


@dataclass(frozen=True)
class Curve:
    """One figure of the report. It draws the logged numbers whose names match the regular expression `pattern`. The
    expression may have groups named `line` and `panel`. A figure may have several panels (parts) with several lines.
    The text that the group `panel` matches says in which panel a number is drawn. The text that the group `line`
    matches says on which line."""

    title: str
    stages: str
    pattern: str
    y_label: str
    x_label: str = "optimizer step"
    log_scale: bool = False
    share: bool = False
    cases: str = ""  # name of the logged number that says how many cases a point is computed from
