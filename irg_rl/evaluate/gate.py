"""The gate: a check before RL. It tests whether refinement really helps. RL starts only if the check passes.

Refinement means that the model looks at its image and draws again. A model that draws again from its own think text,
without looking at an image, already repairs a third of its wrong images. So a higher accuracy after refinement alone is
no proof. The gate asks for three facts. Refinement repairs clearly more images than a plain new draw. It repairs
clearly more images than a refinement that follows the reflection of another prompt. And it makes few right images
wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, isfinite
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from irg_rl.evaluate import intervals, metrics
from irg_rl.evaluate.intervals import Measure
from irg_rl.evaluate.outcomes import Outcomes
from irg_rl.task import Thresholds

HOLDS, FAILS, FEW, NOTHING = "holds", "fails", "too few", "not measured"
"""What can be said about a requirement. too few: there are not enough cases to tell. not measured: there is no case."""
STYLES = {HOLDS: "green", FAILS: "red", FEW: "", NOTHING: ""}
PASSED, NOT_PASSED, NOT_JUDGED = "passed", "not passed", "not judged"
"""What can be said about the gate."""
FIRST = "first image right"
"""Name of the requirement that is not about refinement."""
QUANTILE = 1.96
"""Quantile of the normal distribution for intervals of 95 percent."""


def fewest(threshold: float) -> int:
    """Return the smallest number of cases with which the requirement can be judged. With n cases, a share equal to the
    threshold t has a 95 % interval of t -+ 1.96 sqrt(t (1 - t) / n). Its half must not be larger than t itself:

        n >= 1.96^2 (1 - t) / t

    This is also the smallest n with which Wilson's interval around 0 of n ends below t. For t = 0 there is no such n,
    and the result is 1.

    >>> [fewest(t) for t in (0.40, 0.15, 0.08)]
    [6, 22, 45]
    """
    return max(1, ceil(QUANTILE**2 * (1 - threshold) / threshold - 1e-9)) if threshold > 0 else 1


def line_verdict(line: Mapping[str, Any]) -> str:
    """Return what can be said about a requirement: HOLDS, FAILS, FEW or NOTHING. `line` is `GateLine.to_dict()`, as it
    is stored in the evaluation. Cases are sets of constraints, or rows if the sets were not counted."""
    if line["passed"] is None:
        return NOTHING
    cases = line["n"] if line.get("sets") is None else line["sets"]
    if cases < fewest(line["threshold"]):
        return FEW
    return HOLDS if line["passed"] else FAILS


def gate_verdict(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return what can be said about the gate: NOT_PASSED if a requirement fails, PASSED if all hold, and otherwise
    NOT_JUDGED. This is for people. What the gate stops is decided by `GateReport.passed` alone."""
    found = [line_verdict(line) for line in lines]
    return NOT_PASSED if FAILS in found else NOT_JUDGED if set(found) - {HOLDS} else PASSED


def gate_words(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a few words with what the gate says about refinement. If the first images alone are not good enough, they
    do not say that refinement fails."""
    verdict = gate_verdict(lines)
    if verdict == NOT_PASSED:
        failing = {line["name"] for line in lines if line_verdict(line) == FAILS}
        return "first images are too seldom right" if failing == {FIRST} else "refinement is not shown"
    return "refinement is real" if verdict == PASSED else "too few cases to judge refinement"


@dataclass(frozen=True)
class GateLine:
    """One requirement of the gate (the check whether refinement really helps): the measured value, its limit, and
    whether the limit is met. The limit is a minimum if `at_least` is true, otherwise a maximum."""

    name: str
    measure: Measure
    at_least: bool
    threshold: float

    @property
    def measured(self) -> bool:
        """False if there was nothing to measure, for example no right first image that could be damaged."""
        return isfinite(self.measure.value)

    @property
    def passed(self) -> bool | None:
        """Whether the measured value meets the limit. None if nothing was measured."""
        if not self.measured:
            return None
        tolerance = 1e-9  # 0.55 - 0.40 is slightly below 0.15 in floating point
        if self.at_least:
            return self.measure.value >= self.threshold - tolerance
        return self.measure.value <= self.threshold + tolerance

    @property
    def verdict(self) -> str:
        return line_verdict(self.to_dict())

    @property
    def asked(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.threshold:.2f}"

    @property
    def in_words(self) -> str:
        measure = self.measure
        if not self.measured:
            return f"{self.name} could not be measured (n=0), asked {self.asked}"
        return f"{self.name} is {measure.value:.3f} (n={measure.n} of {measure.sets} sets), asked {self.asked}"

    def to_dict(self) -> dict:
        about = {"name": self.name, "at_least": self.at_least, "threshold": self.threshold, "passed": self.passed}
        return about | self.measure.to_dict()


@dataclass(frozen=True)
class GateReport:
    """The result of the gate, the check whether refinement really helps. It can be printed with rich and converted to
    plain JSON."""

    lines: list[GateLine]
    turn: int
    thresholds: Thresholds

    @property
    def passed(self) -> bool:
        """True if every requirement is met. A requirement that could not be measured is not met."""
        return all(line.passed for line in self.lines)

    @property
    def verdict(self) -> str:
        return gate_verdict([line.to_dict() for line in self.lines])

    @property
    def failures(self) -> list[str]:
        """One text for each requirement that is not met. It says what was measured and what was required."""
        return [line.in_words for line in self.lines if not line.passed]

    def to_dict(self) -> dict:
        return {
            "passed": self.passed,
            "turn": self.turn,
            "thresholds": asdict(self.thresholds),
            "lines": [line.to_dict() for line in self.lines],
        }

    def __rich__(self) -> Table:
        words = gate_words([line.to_dict() for line in self.lines])
        table = Table(title=f"Gate: {words} (turn {self.turn + 1} against the first image)")
        for heading in ("requirement", "measured", "95 % interval", "asked", "n", "sets", ""):
            table.add_column(heading, justify="left" if heading in ("requirement", "") else "right")
        for line in self.lines:
            m = line.measure
            verdict = Text(line.verdict, style=STYLES[line.verdict])
            figures = f"{m.value:.3f}", f"{m.low:.3f} .. {m.high:.3f}", line.asked, str(m.n), str(m.sets)
            table.add_row(line.name, *figures, verdict)
        return table


def check_gate(
    real: Outcomes,
    redraw: Outcomes,
    shuffled: Outcomes,
    thresholds: Thresholds,
    *,
    turn: int | None = None,
) -> GateReport:
    """Check the gate: whether refinement really helps at one turn. The model's own refinement (`real`) is compared with
    two controls: a plain new draw (`redraw`), and a refinement that follows the reflection of another prompt
    (`shuffled`). `thresholds` has the limits that the measured values must meet. If `turn` is None, the function checks
    the last turn that all three tables have.

    The three tables must have the same prompts and first images. Otherwise they would have different images to repair,
    and ValueError is raised. ValueError is also raised if one of the tables has no refinement at this turn.
    """
    asked = thresholds
    deepest = min(real.turns, redraw.turns, shuffled.turns) - 1
    turn = deepest if turn is None else turn
    if not 1 <= turn <= deepest:
        raise ValueError(f"gate at turn {turn}: the arms have refinements at turns 1 to {deepest}")
    for control in (redraw, shuffled):
        _check_same_start(real, control)

    def margin(control: Outcomes) -> Measure:
        return intervals.difference(metrics.repair(real, turn), metrics.repair(control, turn))

    lines = [
        GateLine(FIRST, intervals.proportion(metrics.accuracy(real, 0)), True, asked.first_accuracy),
        GateLine("damage", intervals.proportion(metrics.damage(real, turn)), False, asked.damage),
        GateLine("repair above a plain redraw", margin(redraw), True, asked.margin),
        GateLine("repair above a shuffled reflection", margin(shuffled), True, asked.margin),
    ]
    return GateReport(lines, turn, asked)


def _check_same_start(real: Outcomes, control: Outcomes) -> None:
    if real.prompt_ids != control.prompt_ids:
        raise ValueError(f"control {control.arm!r} has other prompts than {real.arm!r}, or another order of them")
    same = (real.correct[:, 0] == control.correct[:, 0]) & (real.known[:, 0] == control.known[:, 0])
    differing = int(np.sum(~same))
    if differing:
        raise ValueError(
            f"control {control.arm!r} starts from other first images than {real.arm!r}: {differing} of {len(real)} "
            "verdicts differ; refine the same first images in every arm"
        )
