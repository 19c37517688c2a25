"""Describes a figure of the report. The code that logs the numbers also describes their figure with a `Curve`."""

from dataclasses import dataclass

RL = r"rl.*"
"""Regular expression that matches the names of all training stages that use reinforcement learning (RL)."""
UPDATES = "RL update"


@dataclass(frozen=True)
class Curve:
    """One figure of the report. The regular expression `pattern` is matched with the names of all logged numbers. The
    figure draws the numbers with matching names. A figure may have several panels (parts) with several lines. The
    expression may have groups named `panel` and `line`. The text that matches `panel` is the panel of a number. The
    text that matches `line` is its line."""

    title: str
    stages: str
    pattern: str
    y_label: str
    x_label: str = "optimizer step"
    log_scale: bool = False
    share: bool = False
    cases: str = ""  # name of the logged number that says how many cases a point is computed from
