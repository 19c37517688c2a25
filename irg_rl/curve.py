"""A figure of the report, declared beside what logs its numbers."""

from dataclasses import dataclass

RL = r"rl.*"
"""Stages of RL, as a pattern."""
UPDATES = "RL update"


@dataclass(frozen=True)
class Curve:
    """What one figure draws. `pattern` matches scalar names; its groups `line` and `panel` name the line and the panel
    it belongs to, where there are several."""

    title: str
    stages: str
    pattern: str
    y_label: str
    x_label: str = "optimizer step"
    log_scale: bool = False
    share: bool = False
    cases: str = ""  # scalar that says how many cases a point rests on
