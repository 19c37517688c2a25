"""Declares a figure of the report. The code that logs the numbers also declares their figure."""

from dataclasses import dataclass

RL = r"rl.*"
"""Pattern of the names of RL stages."""
UPDATES = "RL update"


@dataclass(frozen=True)
class Curve:
    """One figure. `pattern` matches names of scalars. Its groups `line` and `panel`, if it has them, give the line and
    the panel of a scalar."""

    title: str
    stages: str
    pattern: str
    y_label: str
    x_label: str = "optimizer step"
    log_scale: bool = False
    share: bool = False
    cases: str = ""  # name of the scalar with the number of cases behind a point
